"""Pictures of any size at the size of a prior: hidden pixels stay hidden, known ones come back bit by bit."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxdiff.images.files import read_image, write_image
from jaxdiff.images.fit import Fit, read_fitted
from jaxdiff.images.kernels import read_kernel
from jaxdiff.images.masks import check_hidden, read_mask
from jaxdiff.images.photo import read_photo
from tests.images.conftest import image, refused

# Pictures and priors: whole and fractional factors, even and odd margins, landscape and portrait.
SHAPES = [
    ((32, 32), (32, 32)),
    ((64, 64), (32, 32)),
    ((45, 40), (32, 32)),
    ((33, 50), (32, 32)),
    ((20, 64), (8, 16)),
    ((60, 20), (45, 18)),
    ((45, 40), (24, 40)),
    ((33, 50), (24, 40)),
    ((101, 37), (40, 24)),
    ((64, 96), (20, 40)),
]
FITS = [(*shape, *prior, mode) for shape, prior in SHAPES for mode in ("crop", "pad")]
every_fit = pytest.mark.parametrize(("h", "w", "h2", "w2", "mode"), FITS)


def photo(h, w, seed=0):
    return image(h, w, seed=seed)


def box(h, w):
    hidden = np.zeros((h, w), bool)
    hidden[h // 4 : h // 2, w // 3 : w // 2 + 1] = True
    return hidden


def bits(x):
    return np.ascontiguousarray(x, np.float32).view(np.int32)


@pytest.mark.parametrize(
    ("h", "w", "h2", "w2", "mode"), [*FITS, (400, 500, 256, 256, "crop"), (500, 400, 200, 300, "pad")]
)
def test_what_is_hidden_reaches_no_known_pixel(h, w, h2, w2, mode):
    fit = Fit("x.png", (h, w), (h2, w2), mode)
    hidden = box(h, w) | (np.random.default_rng(1).random((h, w)) < 1e-3)
    small = fit.apply_hidden(hidden)
    check_hidden(small, "the mask")
    before = fit.apply(photo(h, w))
    for scribble in (-1.0, 1.0, photo(h, w, 7)[hidden]):
        x = photo(h, w)
        x[hidden] = scribble
        np.testing.assert_array_equal(bits(fit.apply(x)[~small]), bits(before[~small]))


@every_fit
def test_one_hidden_pixel_hides_the_pixels_it_lies_in_and_no_other(h, w, h2, w2, mode):
    fit = Fit("x.png", (h, w), (h2, w2), mode)
    padding = fit.apply_hidden(np.zeros((h, w), bool))
    i, j = h // 2, w // 2
    hidden = np.zeros((h, w), bool)
    hidden[i, j] = True
    x = np.zeros((h, w, 3), np.float32)
    x[i, j] = 1
    np.testing.assert_array_equal(fit.apply_hidden(hidden), padding | (fit.apply(x)[..., 0] > 0))


@pytest.mark.parametrize(
    ("h", "w", "prior"), [(20, 64, (64, 64)), (101, 37, (101, 101)), (20, 64, (32, 64)), (101, 37, (101, 50))]
)
def test_padding_repeats_the_edges_and_counts_as_hidden(h, w, prior):
    fit = Fit("x.png", (h, w), prior, "pad")
    x = photo(h, w)
    padded, hidden = fit.apply(x), fit.apply_hidden(np.zeros((h, w), bool))
    assert padded.shape == (*prior, 3)
    np.testing.assert_array_equal(padded[~hidden].reshape(h, w, 3), x)
    np.testing.assert_array_equal(padded[0, 0], x[0, 0])
    np.testing.assert_array_equal(padded[-1, -1], x[-1, -1])
    np.testing.assert_array_equal(fit.undo(padded), x)


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_a_picture_of_the_priors_size_stays_as_it_is(tmp_path, mode):
    write_image(tmp_path / "x.png", photo(24, 40))
    x = read_image(tmp_path / "x.png")
    fit = Fit("x.png", (24, 40), (24, 40), mode)
    for same in (x, fit.apply(x), fit.undo(x)):
        np.testing.assert_array_equal(bits(same), bits(read_image(tmp_path / "x.png")))
    np.testing.assert_array_equal(fit.apply_hidden(box(24, 40)), box(24, 40))
    assert fit.describe() == "x.png: 40x24 pixels, used as they are"


def test_a_small_pixel_is_the_mean_of_its_area():
    x = photo(64, 96)
    blocks = x[:, 16:80].reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(Fit("x.png", (64, 96), (32, 32)).apply(x), blocks, atol=1e-6)
    blocks = x[16:48].reshape(16, 2, 48, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(Fit("x.png", (64, 96), (16, 48)).apply(x), blocks, atol=1e-6)


def test_a_script_reads_a_photo_by_the_means_of_its_areas(tmp_path):
    write_image(tmp_path / "x.png", photo(40, 64))
    small, fit = read_fitted(tmp_path / "x.png", (16, 32))
    areas = read_image(tmp_path / "x.png")[4:36].reshape(16, 2, 32, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small, areas, atol=1e-6)
    assert (fit.picture, fit.frame, fit.scale) == ((40, 64), (32, 64), 2)


@every_fit
def test_the_mean_is_kept_and_a_mirror_image_stays_one(h, w, h2, w2, mode):
    fit = Fit("x.png", (h, w), (h2, w2), mode)
    h, w = h - (h - fit.frame[0]) % 2, w - (w - fit.frame[1]) % 2  # margins of equal width
    fit = Fit("x.png", (h, w), (h2, w2), mode)
    x = photo(h, w)
    np.testing.assert_allclose(fit.apply(x[::-1, ::-1]), fit.apply(x)[::-1, ::-1], atol=1e-6)
    if mode == "crop":
        np.testing.assert_allclose(fit.apply(x).mean(), x[fit.kept].mean(), atol=1e-6)


@every_fit
def test_undo_returns_what_was_kept(h, w, h2, w2, mode):
    fit = Fit("x.png", (h, w), (h2, w2), mode)
    rows, columns = fit.kept
    kept = np.array([rows.stop - rows.start, columns.stop - columns.start])
    assert tuple(kept) == (fit.frame if mode == "crop" else (h, w))
    back = fit.undo(fit.apply(photo(h, w)))
    larger = np.array(back.shape[:2]) - kept * fit.prior / fit.frame
    assert np.all((larger >= 0) & (larger < 2))
    # A pixel may share its area with the padding, never lie there.
    known = 1.0 - fit.apply_hidden(np.zeros((h, w), bool))[..., None] * np.ones(3, np.float32)
    assert np.all(fit.undo(known)[1:-1, 1:-1] == 1)


@every_fit
def test_pasting_fills_the_hidden_pixels_and_changes_no_other(h, w, h2, w2, mode):
    fit = Fit("x.png", (h, w), (h2, w2), mode)
    original, sample, hidden = photo(h, w), photo(h2, w2, 5), box(h, w)
    original[0, 0], hidden[:3, :3] = -0.0, True
    seen = np.zeros((h, w), bool)
    seen[fit.kept] = True
    filled = fit.paste(original, sample, hidden)
    same = np.all(bits(filled) == bits(original), axis=-1)
    np.testing.assert_array_equal(same, ~(hidden & seen))
    assert np.abs(filled).max() <= 1
    if fit.scale == 1:
        np.testing.assert_array_equal(filled[hidden & seen], fit.undo(sample)[hidden[fit.kept]])
    np.testing.assert_array_equal(original, np.where(np.arange(h * w).reshape(h, w, 1) == 0, 0, photo(h, w)))


@every_fit
def test_what_is_pasted_lies_where_it_was_cut_out(h, w, h2, w2, mode):
    fit = Fit("x.png", (h, w), (h2, w2), mode)
    ramp = np.linspace(-0.9, 0.9, h)[:, None, None] * np.linspace(0.5, 1, w)[:, None] * np.ones(3)
    ramp = ramp.astype(np.float32)
    filled = fit.paste(ramp, fit.apply(ramp), box(h, w))
    # Half a pixel of the ramp along its steep direction would be larger.
    assert np.abs(filled - ramp).max() < 0.2 / h


@pytest.mark.parametrize(
    ("picture", "prior", "mode", "line"),
    [
        ((400, 500), (256, 256), "crop", "500x400 pixels; the central 400x400 are kept and resized to 256x256"),
        (
            (400, 500),
            (256, 256),
            "pad",
            "500x400 pixels; padded to 500x500 by repeating its edges and resized to 256x256",
        ),
        ((500, 256), (256, 256), "crop", "256x500 pixels; the central 256x256 are kept"),
        ((512, 512), (256, 256), "pad", "512x512 pixels; resized to 256x256"),
        ((400, 500), (100, 200), "crop", "500x400 pixels; the central 500x250 are kept and resized to 200x100"),
        ((100, 200), (200, 200), "pad", "200x100 pixels; padded to 200x200 by repeating its edges"),
    ],
)
def test_the_user_learns_what_happens(picture, prior, mode, line):
    assert Fit("p.png", picture, prior, mode).describe() == f"p.png: {line}"


def test_pictures_with_too_few_pixels_are_refused():
    message = r"p\.png has 40x20 pixels, fewer than the 32x32 that the prior needs; .*--prior"
    refused(message, Fit, "p.png", (20, 40), (32, 32))
    assert Fit("p.png", (20, 40), (32, 32), "pad").scale == 1.25
    refused("p.png has 31x31", Fit, "p.png", (31, 31), (32, 32), "pad")
    # Large enough, but not the part that has the prior's aspect ratio.
    refused("p.png has 64x32 pixels, fewer than the 32x48", Fit, "p.png", (32, 64), (48, 32))
    refused("unknown fit 'stretch'", Fit, "p.png", (40, 40), (32, 32), "stretch")


def contents(damage):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(buffer, "PNG")
    return {"text": b"hello\nthere", "empty": b"", "truncated": buffer.getvalue()[:2000]}[damage]


@pytest.mark.parametrize("damage", ["text", "empty", "truncated"])
@pytest.mark.parametrize("read", [read_photo, lambda path: read_mask(path, (40, 40)), read_kernel])
def test_damaged_files_are_refused_in_one_sentence(tmp_path, read, damage):
    (tmp_path / "x.png").write_bytes(contents(damage))
    refused(r"x\.png is ", read, tmp_path / "x.png")
    refused(r"there is no image .*absent\.png", read, tmp_path / "absent.png")
    refused("is a folder", read, tmp_path)


def test_a_mask_is_checked_again_as_the_prior_sees_it():
    fit, corner = Fit("x.png", (32, 64), (32, 32)), np.zeros((32, 64), bool)
    corner[:4, :4] = True
    refused(
        "the mask hides no pixel; --fit pad keeps",
        check_hidden,
        fit.apply_hidden(corner),
        "the mask",
        "--fit pad keeps all",
    )
    dots = np.zeros((320, 320), bool)
    dots[::10, ::10] = True
    refused("hides every pixel", check_hidden, Fit("x.png", (320, 320), (32, 32)).apply_hidden(dots), "the mask")
