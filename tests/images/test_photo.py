"""Photos go out as they came in, whatever they are; what cannot is said aloud."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from jaxdiff.images import opening
from jaxdiff.images.opening import PictureWarning
from jaxdiff.images.photo import read_photo
from tests.images.conftest import image, refused

H, W = 18, 26
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RNG = np.random.default_rng(5)
GREY, COLOUR = RNG.integers(0, 256, (H, W), np.uint8), RNG.integers(0, 256, (H, W, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (H, W), np.uint8)
DEEP = RNG.integers(0, 65536, (H, W), np.uint16)


def palette():
    return Image.fromarray(COLOUR).quantize(16)


def key_coloured():
    picture = Image.fromarray(GREY)
    picture.info["transparency"] = int(GREY[0, 0])
    return picture


# kind: the picture, its suffix, and the mode in which it goes out
MODES = {
    "grey": (Image.fromarray(GREY), "png", "L"),
    "colour": (Image.fromarray(COLOUR), "png", "RGB"),
    "grey with alpha": (Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), "png", "LA"),
    "colour with alpha": (Image.fromarray(np.dstack([COLOUR, ALPHA])), "png", "RGBA"),
    "16-bit grey": (Image.fromarray(DEEP), "png", "I;16"),
    "16-bit grey tiff": (Image.fromarray(DEEP), "tif", "I;16"),
    "colour tiff": (Image.fromarray(COLOUR), "tif", "RGB"),
    "webp with alpha": (Image.fromarray(np.dstack([COLOUR, ALPHA])), "webp", "RGBA"),
    "jpeg": (Image.fromarray(COLOUR), "jpg", "RGB"),
    "grey jpeg": (Image.fromarray(GREY), "jpg", "L"),
    "palette": (palette(), "png", "RGB"),
    "transparent grey": (key_coloured(), "png", "LA"),
    "black and white": (Image.fromarray(GREY > 99), "png", "L"),
}
every_mode = pytest.mark.parametrize("kind", MODES)


def write(kind, tmp_path):
    """Writes a picture with a profile and EXIF; returns its file, and what Pillow reads in the mode that is kept."""
    picture, suffix, mode = MODES[kind]
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x8769] = {0x8827: 400}
    options = {"transparency": picture.info["transparency"]} if kind == "transparent grey" else {}
    options |= {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = tmp_path / f"in.{suffix}"
    picture.save(path, icc_profile=PROFILE, exif=exif.tobytes(), **options)
    with Image.open(path) as stored:
        return path, np.asarray(stored if stored.mode == mode else stored.convert(mode))


@every_mode
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("changed", [None, "nothing"])
def test_what_comes_in_goes_out(tmp_path, kind, suffix, changed):
    path, stored = write(kind, tmp_path)
    photo = read_photo(path)
    x = photo.x if changed is None else image(H, W)
    photo.write(tmp_path / f"out{suffix}", x, None if changed is None else np.zeros((H, W), bool))
    with Image.open(tmp_path / f"out{suffix}") as out:
        assert out.mode == MODES[kind][2]
        np.testing.assert_array_equal(np.asarray(out), stored)
        assert out.info["icc_profile"] == PROFILE
        exif = out.getexif()
        assert exif[0x010F] == "a camera"
        assert exif.get_ifd(0x8769)[0x8827] == 400


@every_mode
def test_samplers_get_the_stored_colours_in_minus_one_to_one(tmp_path, kind):
    path, stored = write(kind, tmp_path)
    colours = stored[..., : {"LA": 1, "RGBA": 3}.get(MODES[kind][2])] if stored.ndim == 3 else stored[..., None]
    x = read_photo(path).x
    assert x.shape == (H, W, 3)
    assert x.dtype == np.float32
    expected = np.broadcast_to(colours / np.iinfo(photo_type(stored)).max * 2 - 1, x.shape)
    np.testing.assert_allclose(x, expected, atol=1e-6)


def photo_type(stored):
    return np.uint16 if stored.dtype == np.uint16 else np.uint8


@every_mode
def test_only_what_changed_is_written(tmp_path, kind):
    path, stored = write(kind, tmp_path)
    changed, x = np.zeros((H, W), bool), image(H, W, seed=1)
    changed[3:9, 4:20] = True
    read_photo(path).write(tmp_path / "out.png", x, changed)
    out = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_array_equal(out[~changed], stored[~changed])
    limit = np.iinfo(photo_type(stored)).max
    mode = MODES[kind][2]
    wanted = x.mean(-1, keepdims=True) if mode in ("L", "LA", "I;16") else x
    found = out[..., : wanted.shape[-1]] if out.ndim == 3 else out[..., None]
    np.testing.assert_allclose(found[changed], ((wanted + 1) / 2 * limit)[changed], atol=0.51)
    if mode in ("LA", "RGBA"):
        np.testing.assert_array_equal(out[..., -1], stored[..., -1])


def test_a_grey_photo_in_three_channels_is_filled_in_grey(tmp_path):
    Image.fromarray(np.repeat(GREY[..., None], 3, -1)).save(tmp_path / "in.png")
    changed = np.zeros((H, W), bool)
    changed[3:9] = True
    read_photo(tmp_path / "in.png").write(tmp_path / "out.png", image(H, W), changed)
    out = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_array_equal(out, np.repeat(out[..., :1], 3, -1))
    assert out.shape == (H, W, 3)


@pytest.mark.parametrize("kind", ["colour with alpha", "16-bit grey", "grey"])
def test_a_photo_of_another_size_keeps_what_it_is(tmp_path, kind):
    path, stored = write(kind, tmp_path)
    x = np.repeat(np.repeat(read_photo(path).x, 2, 0), 2, 1)
    read_photo(path).write(tmp_path / "out.png", x)
    with Image.open(tmp_path / "out.png") as out:
        assert out.mode == MODES[kind][2]
        assert out.size == (2 * W, 2 * H)
        assert out.info["icc_profile"] == PROFILE
        values = np.asarray(out)[::2, ::2]
    np.testing.assert_array_equal(values[..., :3], stored[..., :3])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_turned_pixels_are_not_turned_again(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "a camera"
    Image.fromarray(COLOUR).save(tmp_path / f"in.{suffix}", exif=exif)
    photo = read_photo(tmp_path / f"in.{suffix}")
    assert photo.x.shape == ((H, W, 3) if orientation < 5 else (W, H, 3))
    photo.write(tmp_path / "out.png", photo.x)
    with Image.open(tmp_path / "out.png") as out:
        assert out.getexif().get(0x0112, 1) == 1
        assert out.getexif()[0x010F] == "a camera"
    np.testing.assert_array_equal(read_photo(tmp_path / "out.png").samples, photo.samples)


def test_filled_holes_can_be_made_opaque_and_parts_be_taken(tmp_path):
    path, _ = write("colour with alpha", tmp_path)
    where = np.zeros((H, W), bool)
    where[2:5] = True
    photo = read_photo(path)
    filled = photo.opaque(where)
    assert filled.alpha is not None
    np.testing.assert_array_equal(filled.alpha, np.where(where, 255, ALPHA))
    part = photo.part(slice(1, 4), slice(2, 9))
    np.testing.assert_array_equal(part.samples, COLOUR[1:4, 2:9])
    np.testing.assert_array_equal(part.alpha, ALPHA[1:4, 2:9])


def test_what_cannot_go_out_is_said(tmp_path):
    Image.fromarray(np.dstack([COLOUR, ALPHA]), "CMYK").save(tmp_path / "in.jpg", icc_profile=b"about inks")
    with pytest.warns(PictureWarning, match="is in CMYK"):
        photo = read_photo(tmp_path / "in.jpg")
    assert photo.icc_profile is None
    assert photo.samples.shape == (H, W, 3)
    Image.fromarray(np.zeros((H, W), np.float32)).save(tmp_path / "in.tif")
    refused("holds floats", read_photo, tmp_path / "in.tif")


def test_formats_that_cannot_hold_the_photo_are_refused(tmp_path):
    for kind, suffix in (
        ("colour with alpha", "jpg"),
        ("16-bit grey", "webp"),
        ("16-bit grey", "jpg"),
        ("grey", "bmp"),
    ):
        path, _ = write(kind, tmp_path)
        with pytest.raises(ValueError, match="must end in"):
            read_photo(path).write(tmp_path / f"out.{suffix}", image(H, W))
        assert not (tmp_path / f"out.{suffix}").exists()


def test_images_that_are_not_the_photos_are_refused(tmp_path):
    photo = read_photo(write("colour", tmp_path)[0])
    for x, changed in ((image(4, 4), np.ones((H, W), bool)), (image(H, W), np.ones((4, 4), bool))):
        with pytest.raises(ValueError, match="must have the size"):
            photo.write(tmp_path / "out.png", x, changed)
    with pytest.raises(ValueError, match="must be finite"):
        photo.write(tmp_path / "out.png", np.full((H, W, 3), np.nan, np.float32))


def test_of_several_pages_the_largest_is_read(tmp_path):
    pages = [Image.fromarray(COLOUR).resize(size) for size in ((5, 4), (W, H), (7, 7))]
    pages[0].save(tmp_path / "in.tif", save_all=True, append_images=pages[1:])
    with pytest.warns(PictureWarning, match="holds 3 pictures; number 2 is taken, 26x18 pixels"):
        photo = read_photo(tmp_path / "in.tif")
    np.testing.assert_array_equal(photo.samples, np.asarray(pages[1]))


def test_our_own_limit_of_pixels_holds_and_not_pillows(tmp_path, monkeypatch):
    path, _ = write("colour", tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_photo(path).samples.shape == (H, W, 3)
    assert Image.MAX_IMAGE_PIXELS == 10
    monkeypatch.setattr(opening, "LARGEST", 400)
    refused("26x18 pixels, more than", read_photo, path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.heic", b"\0\0\0\x18ftypheic" + bytes(40), "format HEIC, which needs the plug-in .*save it as PNG"),
        ("x.jpg", b"\0\0\0\x18ftypmif1" + bytes(40), "format HEIC"),
        ("x.dng", b"II*\0", "camera's raw file"),
        ("x.pdf", b"%PDF-1.7", "not an image in a format that Pillow knows"),
        ("[red]x[/red].png", b"hello", r"\[red\]x\[/red\]\.png is not an image"),
        ("-x.png", b"hello", "-x.png is not an image"),
    ],
)
def test_files_that_are_no_pictures_are_refused_in_one_sentence(tmp_path, name, content, sentence):
    path = tmp_path / name.replace("/", ":")
    path.write_bytes(content)
    refused(sentence.replace("/", ":"), read_photo, path)


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path, _ = write("colour", tmp_path)

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied", "in.png")

    monkeypatch.setattr(type(path), "open", forbidden)
    refused(r"in\.png cannot be read: Permission denied", read_photo, path)


@pytest.mark.parametrize("size", [(1, 1), (400, 17)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pictures_of_any_size_are_read_and_written(tmp_path, size, mode):
    Image.new(mode, size, 9 if mode == "L" else (9,) * len(mode)).save(tmp_path / "in.png")
    photo = read_photo(tmp_path / "in.png")
    photo.write(tmp_path / "out.png", photo.x)
    assert (Image.open(tmp_path / "out.png").mode, Image.open(tmp_path / "out.png").size) == (mode, size)
