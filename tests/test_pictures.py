import io

import numpy as np
import pytest
from PIL import Image

from jaxdiff.images.files import read_image, write_image
from jaxdiff.images.fit import Fit, check_hidden, read_mask, read_picture
from jaxdiff.images.kernels import check_kernel, read_kernel, scale_kernel
from jaxdiff.errors import UserError

# Whole and fractional factors, even and odd margins, landscape and portrait.
SHAPES = [(32, 32), (64, 64), (45, 40), (33, 50), (20, 64), (101, 37)]
FITS = [(h, w, mode) for h, w in SHAPES for mode in ("crop", "pad") if mode == "pad" or min(h, w) >= 32]


def photo(h, w, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (h, w, 3)).astype(np.float32)


def box(h, w):
    hidden = np.zeros((h, w), bool)
    hidden[h // 4 : h // 2, w // 3 : w // 2 + 1] = True
    return hidden


def bits(x):
    return np.ascontiguousarray(x, np.float32).view(np.int32)


def save(path, values, **options):
    Image.fromarray(np.asarray(values, np.uint8)).save(path, **options)
    return path


def refused(match, function, *arguments, **options):
    with pytest.raises(UserError, match=match) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(("h", "w", "mode"), [*FITS, (400, 500, "crop"), (500, 400, "pad")])
def test_what_is_hidden_reaches_no_known_pixel(h, w, mode):
    fit = Fit("x.png", h, w, 256 if min(h, w) > 256 else 32, mode)
    hidden = box(h, w) | (np.random.default_rng(1).random((h, w)) < 1e-3)
    small = fit.apply_hidden(hidden)
    check_hidden(small, "the mask")
    before = fit.apply(photo(h, w))
    for scribble in (-1.0, 1.0, photo(h, w, 7)[hidden]):
        x = photo(h, w)
        x[hidden] = scribble
        np.testing.assert_array_equal(bits(fit.apply(x)[~small]), bits(before[~small]))


@pytest.mark.parametrize(("h", "w", "mode"), FITS)
def test_one_hidden_pixel_hides_the_pixels_it_lies_in_and_no_other(h, w, mode):
    fit = Fit("x.png", h, w, 32, mode)
    padding = fit.apply_hidden(np.zeros((h, w), bool))
    i, j = h // 2, w // 2
    hidden = np.zeros((h, w), bool)
    hidden[i, j] = True
    x = np.zeros((h, w, 3), np.float32)
    x[i, j] = 1
    np.testing.assert_array_equal(fit.apply_hidden(hidden), padding | (fit.apply(x)[..., 0] > 0))


@pytest.mark.parametrize(("h", "w"), [(20, 64), (101, 37)])
def test_padding_repeats_the_edges_and_counts_as_hidden(h, w):
    fit = Fit("x.png", h, w, max(h, w), "pad")
    x = photo(h, w)
    square, hidden = fit.apply(x), fit.apply_hidden(np.zeros((h, w), bool))
    np.testing.assert_array_equal(square[~hidden].reshape(h, w, 3), x)
    np.testing.assert_array_equal(square[0, 0], x[0, 0])
    np.testing.assert_array_equal(square[-1, -1], x[-1, -1])
    np.testing.assert_array_equal(fit.undo(square), x)


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_a_picture_of_the_priors_size_stays_as_it_is(tmp_path, mode):
    write_image(tmp_path / "x.png", photo(32, 32))
    x = read_picture(tmp_path / "x.png")
    fit = Fit("x.png", 32, 32, 32, mode)
    for same in (x, fit.apply(x), fit.undo(x)):
        np.testing.assert_array_equal(bits(same), bits(read_image(tmp_path / "x.png")))
    np.testing.assert_array_equal(fit.apply_hidden(box(32, 32)), box(32, 32))
    assert fit.describe() == "x.png: 32x32 pixels, used as they are"


def test_a_small_pixel_is_the_mean_of_its_area():
    x = photo(64, 96)
    blocks = x[:, 16:80].reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(Fit("x.png", 64, 96, 32).apply(x), blocks, atol=1e-6)


@pytest.mark.parametrize(("h", "w", "mode"), FITS)
def test_the_mean_is_kept_and_a_mirror_image_stays_one(h, w, mode):
    fit = Fit("x.png", h, w, 32, mode)
    h, w = h - (h - fit.side) % 2, w - (w - fit.side) % 2  # margins of equal width
    fit = Fit("x.png", h, w, 32, mode)
    x = photo(h, w)
    np.testing.assert_allclose(fit.apply(x[::-1, ::-1]), fit.apply(x)[::-1, ::-1], atol=1e-6)
    if mode == "crop":
        np.testing.assert_allclose(fit.apply(x).mean(), x[fit.kept].mean(), atol=1e-6)


@pytest.mark.parametrize(("h", "w", "mode"), FITS)
def test_undo_returns_what_was_kept(h, w, mode):
    fit = Fit("x.png", h, w, 32, mode)
    rows, columns = fit.kept
    kept = np.array([rows.stop - rows.start, columns.stop - columns.start])
    assert kept.tolist() == ([fit.side] * 2 if mode == "crop" else [h, w])
    back = fit.undo(fit.apply(photo(h, w)))
    larger = np.array(back.shape[:2]) - kept / fit.scale
    assert np.all((larger >= 0) & (larger < 2))
    # A pixel may share its area with the padding, never lie there.
    touched = ~fit.undo(fit.apply_hidden(np.zeros((h, w), bool)))[1:-1, 1:-1]
    assert touched.all()


@pytest.mark.parametrize(("h", "w", "mode"), FITS)
def test_pasting_fills_the_hidden_pixels_and_changes_no_other(h, w, mode):
    fit = Fit("x.png", h, w, 32, mode)
    original, sample, hidden = photo(h, w), photo(32, 32, 5), box(h, w)
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


@pytest.mark.parametrize(("h", "w", "mode"), FITS)
def test_what_is_pasted_lies_where_it_was_cut_out(h, w, mode):
    fit = Fit("x.png", h, w, 32, mode)
    ramp = np.linspace(-0.9, 0.9, h)[:, None, None] * np.linspace(0.5, 1, w)[:, None] * np.ones(3)
    ramp = ramp.astype(np.float32)
    filled = fit.paste(ramp, fit.apply(ramp), box(h, w))
    # Half a pixel of the ramp along its steep direction would be larger.
    assert np.abs(filled - ramp).max() < 0.2 / h


@pytest.mark.parametrize(
    ("h", "w", "size", "mode", "line"),
    [
        (400, 500, 256, "crop", "p.png: 500x400 pixels; the central 400x400 are kept and resized to 256x256"),
        (
            400,
            500,
            256,
            "pad",
            "p.png: 500x400 pixels; padded to 500x500 by repeating its edges and resized to 256x256",
        ),
        (500, 256, 256, "crop", "p.png: 256x500 pixels; the central 256x256 are kept"),
        (512, 512, 256, "pad", "p.png: 512x512 pixels; resized to 256x256"),
    ],
)
def test_the_user_is_told_what_happens(h, w, size, mode, line):
    assert Fit("p.png", h, w, size, mode).describe() == line


def test_pictures_with_too_few_pixels_are_refused():
    message = r"p\.png has 40x20 pixels, fewer than the 32x32 that the prior needs; .*--prior"
    refused(message, Fit, "p.png", 20, 40, 32)
    assert Fit("p.png", 20, 40, 32, "pad").scale == 1.25
    refused("p.png has 31x31", Fit, "p.png", 31, 31, 32, "pad")
    refused("unknown fit 'stretch'", Fit, "p.png", 40, 40, 32, "stretch")


def contents(damage):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(buffer, "PNG")
    return {"text": b"hello\nthere", "empty": b"", "truncated": buffer.getvalue()[:2000]}[damage]


@pytest.mark.parametrize("damage", ["text", "empty", "truncated"])
@pytest.mark.parametrize("read", [read_picture, lambda path: read_mask(path, (40, 40)), read_kernel])
def test_damaged_files_are_refused_in_one_sentence(tmp_path, read, damage):
    (tmp_path / "x.png").write_bytes(contents(damage))
    refused(r"x\.png is ", read, tmp_path / "x.png")
    refused(r"there is no image .*absent\.png", read, tmp_path / "absent.png")
    refused("is a folder", read, tmp_path)


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied", "x.png")

    monkeypatch.setattr("jaxdiff.runs.pictures.read_image", forbidden)
    refused(r"x\.png cannot be read: Permission denied", read_picture, tmp_path / "x.png")


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
    np.testing.assert_array_equal(read_mask(path, (16, 24, 3), invert), hidden)


@pytest.mark.parametrize("paint", [0, 255])
def test_what_is_transparent_was_not_painted(tmp_path, paint):
    opaque = np.where(box(16, 24), 255, 0)
    save(tmp_path / "m.png", np.stack([np.full((16, 24), paint)] * 3 + [opaque], axis=-1))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", (16, 24), invert=paint == 0), box(16, 24))
    refused("hides no pixel", read_mask, tmp_path / "m.png", (16, 24), invert=paint != 0)


def test_the_threshold_is_half_way(tmp_path):
    save(tmp_path / "m.png", [[0, 127, 128, 255]])
    assert read_mask(tmp_path / "m.png", (1, 4)).tolist() == [[False, False, True, True]]
    assert read_mask(tmp_path / "m.png", (1, 4), invert=True).tolist() == [[True, True, False, False]]


def test_a_mask_is_compared_with_the_picture_as_it_is_seen(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.full((16, 24, 3), 200)
    stored[:4] = 10
    save(tmp_path / "x.jpg", stored, exif=exif, quality=95)
    x = read_picture(tmp_path / "x.jpg")
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


def test_a_mask_is_checked_again_as_the_prior_sees_it():
    fit, corner = Fit("x.png", 32, 64, 32), np.zeros((32, 64), bool)
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
    refused("hides every pixel", check_hidden, Fit("x.png", 320, 320, 32).apply_hidden(dots), "the mask")


def streak(h=5, w=7):
    return np.random.default_rng(3).integers(1, 256, (h, w))


def correlate(x, kernel):
    pad = [(side // 2, side // 2) for side in kernel.shape]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pad), kernel.shape)
    return np.einsum("hwij,ij->hw", windows, kernel)


@pytest.mark.parametrize("kind", ["png", "png16", "alpha", "npy", "npy bool"])
def test_a_kernel_file_shows_what_becomes_of_a_point_of_light(tmp_path, kind):
    values, path = streak(), tmp_path / f"k.{kind[:3]}"
    if kind == "png16":
        path = tmp_path / "k.png"
        Image.fromarray((values * 257).astype(np.uint16)).save(path)
    elif kind == "alpha":
        path = save(tmp_path / "k.png", np.stack([np.full_like(values, 255)] * 3 + [values], axis=-1))
    elif kind == "png":
        save(path, values)
    else:
        values = values > 99 if "bool" in kind else values
        np.save(path, values)
    point = np.zeros((15, 15))
    point[7, 7] = 1
    kernel = read_kernel(path)
    assert kernel.dtype == np.float32
    expected = np.zeros((15, 15))
    expected[5:10, 4:11] = values / values.sum()
    np.testing.assert_allclose(correlate(point, kernel), expected, atol=1e-6)


def test_even_sides_get_zeros_at_the_end_and_empty_margins_go(tmp_path):
    np.save(tmp_path / "k.npy", streak(4, 6))
    turned = read_kernel(tmp_path / "k.npy")[::-1, ::-1]
    np.testing.assert_allclose(turned[:4, :6], streak(4, 6) / streak(4, 6).sum(), rtol=1e-6)
    assert turned.shape == (5, 7)
    np.save(tmp_path / "wide.npy", np.pad(streak(4, 6), [(10, 11), (3, 4)]))
    np.testing.assert_array_equal(read_kernel(tmp_path / "wide.npy")[::-1, ::-1], turned)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.zeros((3, 3)), "no positive sum"),
        (np.array([[1, -1, 0]]) * 0.3, "no positive sum"),
        (-np.ones((3, 3)), "no positive sum"),
        (np.full((3, 3), np.nan), "NaN or infinite"),
        (np.array([[1, np.inf, -np.inf]]), "NaN or infinite"),
        (np.ones((3, 3, 1)), r"must be a matrix .* \(3, 3, 1\)"),
        (np.ones(3), "must be a matrix"),
        (np.ones((3, 3), complex), "real numbers, got complex128"),
        (np.array([["a"]]), "must be a matrix"),
        (np.ones((0, 3)), "whole .npy file|no positive sum"),
        (np.array([[{}]]), "whole .npy file"),
    ],
)
def test_bad_kernels_are_refused(tmp_path, kernel, message):
    np.save(tmp_path / "k.npy", kernel)
    refused(message, read_kernel, tmp_path / "k.npy")


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "huge", "open"])
def test_damaged_kernel_files_are_refused(tmp_path, damage):
    np.save(tmp_path / "k.npy", np.ones((9, 9)))
    whole = (tmp_path / "k.npy").read_bytes()
    huge = whole.replace(b"(9, 9)", b"(9, 9999999999)").replace(b"         ", b"", 1)
    damaged = {"text": b"0 1 0", "empty": b"", "truncated": whole[:-9], "huge": huge, "open": whole.replace(b"}", b" ")}
    (tmp_path / "k.npy").write_bytes(damaged[damage])
    refused("whole .npy file", read_kernel, tmp_path / "k.npy")
    refused(r"there is no kernel .*absent\.npy", read_kernel, tmp_path / "absent.npy")
    save(tmp_path / "black.png", np.zeros((3, 3)))
    refused("no positive sum", read_kernel, tmp_path / "black.png")


def gaussian(std, side):
    taps = np.exp(-0.5 * ((np.arange(side) - side // 2) / std) ** 2)
    return np.outer(taps, taps) / taps.sum() ** 2


def moments(kernel):
    offsets = np.arange(len(kernel)) - len(kernel) // 2
    weights = kernel.sum(axis=1)
    mean = np.sum(weights * offsets)
    return mean, np.sqrt(np.sum(weights * offsets**2) - mean**2)


@pytest.mark.parametrize("scale", [1.0, 500 / 256, 2.0, 3.7])
def test_a_kernel_shrinks_with_the_picture_around_its_centre(scale):
    kernel = scale_kernel(gaussian(6.0, 49).astype(np.float32), scale)
    assert np.all(np.array(kernel.shape) % 2 == 1)
    np.testing.assert_allclose(kernel.sum(), 1, atol=1e-6)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
    mean, std = moments(kernel)
    np.testing.assert_allclose(mean, 0, atol=1e-5)
    np.testing.assert_allclose(std, 6 / scale, rtol=0.04)


def test_a_kernels_orientation_and_shape_are_kept():
    kernel = (streak() / streak().sum()).astype(np.float32)
    np.testing.assert_allclose(scale_kernel(kernel, 1.0), kernel, rtol=1e-6)
    np.testing.assert_allclose(scale_kernel(kernel, 2.5), scale_kernel(kernel[::-1, ::-1], 2.5)[::-1, ::-1], atol=1e-7)
    np.testing.assert_allclose(scale_kernel(kernel, 2.5), scale_kernel(kernel.T, 2.5).T, atol=1e-7)
    assert scale_kernel(kernel, 2.0).shape == (3, 5)


def test_a_blur_within_one_pixel_is_none():
    assert scale_kernel(gaussian(1.0, 5).astype(np.float32), 5.0).tolist() == [[1.0]]
    assert scale_kernel(np.ones((1, 1), np.float32), 1.0).tolist() == [[1.0]]


def test_kernels_larger_than_the_reflected_picture_are_refused():
    check_kernel(np.ones((63, 1), np.float32), 32, "the kernel k.png")
    message = r"the kernel k\.png has 65x1 pixels at the prior's resolution, more than 63x63"
    refused(message, check_kernel, np.ones((1, 65), np.float32), 32, "the kernel k.png")
