"""What a mask hides: said by white paint, by transparency or by a colour, and never guessed in silence."""

from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from jaxdiff.images.files import read_image
from jaxdiff.images.masks import MaskRule, read_mask
from jaxdiff.images.opening import PictureWarning
from tests.images.conftest import image, refused, save


def box(h, w):
    hidden = np.zeros((h, w), bool)
    hidden[h // 4 : h // 2, w // 3 : w // 2 + 1] = True
    return hidden


def colours(h=48, w=64):
    """Colours of a photo, without pure red."""
    return np.rint((image(h, w) + 1) * 100)


def with_alpha(rgb, alpha):
    return np.dstack([np.broadcast_to(rgb, (*np.shape(alpha), 3)), alpha])


@pytest.mark.parametrize("kind", ["grey", "grey16", "bilevel", "palette", "colour", "alpha", "jpeg"])
@pytest.mark.parametrize("invert", [False, True])
def test_white_is_hidden_and_inverted_black(tmp_path, kind, invert):
    hidden = box(16, 24)
    grey = np.where(hidden != invert, 255, 0).astype(np.uint8)
    picture = Image.fromarray(grey)
    path = tmp_path / ("m.jpg" if kind == "jpeg" else "m.png")
    if kind == "alpha":
        painted = np.stack([grey, grey, grey, np.where(hidden, 255, 0)], axis=-1)
        picture = Image.fromarray(painted.astype(np.uint8))
    elif kind == "grey16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        picture = picture.convert({"bilevel": "1", "palette": "P", "colour": "RGB"}.get(kind, "L"))
    picture.save(path)
    with pytest.warns(PictureWarning, match="not painted") if kind == "alpha" else nullcontext():
        np.testing.assert_array_equal(read_mask(path, (16, 24, 3), invert), hidden)


def test_a_mask_is_compared_with_the_picture_as_it_is_seen(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.full((16, 24, 3), 200)
    stored[:4] = 10
    save(tmp_path / "x.jpg", stored, exif=exif, quality=95)
    x = read_image(tmp_path / "x.jpg")
    assert x.shape == (24, 16, 3)
    dark = x.mean(axis=-1) < 0
    save(tmp_path / "m.png", np.where(dark, 255, 0))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", x.shape), dark)
    save(tmp_path / "m.png", np.where(dark.T, 255, 0))
    message = r"the mask .*m\.png has 24x16 pixels, the picture 16x24"
    refused(message, read_mask, tmp_path / "m.png", x.shape)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize(("value", "amount"), [(0, "no"), (255, "every")])
def test_masks_that_hide_nothing_or_everything_are_refused(tmp_path, value, amount, invert):
    save(tmp_path / "m.png", np.full((4, 4), value))
    amount = {"no": "every", "every": "no"}[amount] if invert else amount
    refused(rf"m\.png hides {amount} pixel; .*--invert-mask", read_mask, tmp_path / "m.png", (4, 4), invert)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("rgb", ["white", "black", "photo", "black hole in a photo"])
def test_what_was_erased_is_hidden(tmp_path, rgb, invert):
    hole = box(48, 64)
    rgb = {"white": 255, "black": 0, "photo": colours()}.get(rgb, colours() * ~hole[..., None])
    path = save(tmp_path / "m.png", with_alpha(rgb, np.where(hole, 0, 255)))
    with pytest.warns(PictureWarning, match="transparent pixels are taken as " + ("known" if invert else "hidden")):
        hidden = read_mask(path, (48, 64), invert)
    np.testing.assert_array_equal(hidden, hole != invert)
    np.testing.assert_array_equal(read_mask(path, (48, 64), rule=MaskRule(invert, alpha=True)), hole != invert)


def test_transparency_can_be_asked_for_where_white_would_say_it(tmp_path):
    hole = box(48, 64)
    path = save(tmp_path / "m.png", with_alpha(np.where(hole, 0, 255)[..., None], np.where(hole, 0, 255)))
    with pytest.warns(PictureWarning, match="--mask-alpha takes them as hidden"):
        np.testing.assert_array_equal(read_mask(path, (48, 64)), ~hole)
    np.testing.assert_array_equal(read_mask(path, (48, 64), rule=MaskRule(alpha=True)), hole)
    opaque = save(tmp_path / "opaque.png", np.where(hole, 255, 0))
    refused("no transparent pixel", read_mask, opaque, (48, 64), rule=MaskRule(alpha=True))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("digits", ["FF0000", "#ff0000"])
def test_painted_strokes_are_found_by_their_colour(tmp_path, suffix, digits):
    strokes = box(48, 64)
    options = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
    rgb = np.where(strokes[..., None], (255, 0, 0), 90)
    path = save(tmp_path / f"m.{suffix}", rgb, **options)
    found = read_mask(path, (48, 64), rule=MaskRule(colour=digits))
    # JPEG mixes colours at the edges of strokes.
    assert (found != strokes).mean() <= (0.05 if suffix == "jpg" else 0)
    message = "has no pixel of the colour 0000FF; the nearest is"
    refused(message, read_mask, path, (48, 64), rule=MaskRule(colour="0000FF"))


@pytest.mark.parametrize("kind", ["photo", "photo with strokes", "grey photo", "night", "ramp"])
@pytest.mark.parametrize("invert", [False, True])
def test_what_is_not_nearly_two_valued_is_refused_without_a_threshold(tmp_path, kind, invert):
    grey = colours().mean(-1, keepdims=True)
    values = {
        "photo": colours(),
        "photo with strokes": np.where(box(48, 64)[..., None], (255, 0, 0), colours()),
        "grey photo": np.repeat(grey, 3, -1),
        "night": np.where(box(48, 64)[..., None], grey, 0) * np.ones(3),
        "ramp": np.linspace(0, 255, 64)[:, None] * np.ones((48, 1, 3)),
    }[kind]
    path = save(tmp_path / "m.png", values)
    refused("looks like a photo.*--mask-alpha.*--mask-colour.*--mask-threshold", read_mask, path, (48, 64), invert)
    bright = np.asarray(Image.open(path)).mean(-1) / 255
    hidden = read_mask(path, (48, 64), rule=MaskRule(invert, threshold=0.3))
    np.testing.assert_array_equal(hidden, (bright >= 0.3) != invert)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 100), (200, 255), (3, 4)])
def test_two_values_are_black_and_white(tmp_path, low, high):
    path = save(tmp_path / "m.png", np.where(box(16, 24), high, low))
    with pytest.warns(PictureWarning, match=f"{low} and {high} of 255"):
        np.testing.assert_array_equal(read_mask(path, (16, 24)), box(16, 24))


@pytest.mark.parametrize("paint", [0, 255])
def test_soft_edges_are_cut_half_way(tmp_path, paint):
    edge = np.clip(np.arange(64) * 60 - 1800, 0, 255) * np.ones((48, 1))
    path = save(tmp_path / "m.png", edge)
    np.testing.assert_array_equal(read_mask(path, (48, 64)), edge >= 127.5)
    path = save(tmp_path / "alpha.png", with_alpha(paint, 255 - edge))
    np.testing.assert_array_equal(read_mask(path, (48, 64), rule=MaskRule(alpha=True)), edge > 127.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colour": "red"}, "--mask-colour must be six hexadecimal digits"),
        ({"colour": "FF00000"}, "--mask-colour must be"),
        ({"threshold": 128}, "--mask-threshold must be a fraction of white"),
        ({"threshold": 0}, "--mask-threshold must be"),
        ({"threshold": float("nan")}, "--mask-threshold must be"),
        ({"colour": "FF0000", "alpha": True}, "choose one"),
        ({"colour": "FF0000", "threshold": 0.5}, "choose one"),
    ],
)
def test_rules_that_make_no_sense_are_refused(settings, message):
    refused(message, MaskRule, **settings)
