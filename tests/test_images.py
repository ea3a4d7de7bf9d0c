import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdiff.images.files import read_image, to_uint8, write_gif, write_image
from jaxdiff.images.grid import grid, heat, labelled_grid


def pixels(h=6, w=9, channels=3, seed=0):
    shape = (h, w, channels) if channels else (h, w)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def image(h=6, w=9, channels=3, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (h, w, channels)).astype(np.float32)


def as_float(values):
    return np.asarray(values, np.float64) / 127.5 - 1


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tiff"])
def test_colour_files_are_read_to_the_unit_interval(tmp_path, suffix):
    values = pixels()
    Image.fromarray(values).save(tmp_path / f"x.{suffix}", lossless=True)
    x = read_image(tmp_path / f"x.{suffix}")
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, as_float(values), atol=1e-6)


@pytest.mark.parametrize("channels", [0, 1])
def test_grey_is_repeated(tmp_path, channels):
    values = pixels(channels=0)
    Image.fromarray(values).convert("1" if channels else "L").save(tmp_path / "x.png")
    x = read_image(tmp_path / "x.png")
    if channels:
        assert set(np.unique(x)) == {-1.0, 1.0}
    else:
        np.testing.assert_allclose(x[..., 0], as_float(values), atol=1e-6)
    assert np.all(x == x[..., :1])
    assert x.shape == (6, 9, 3)


def test_palettes_are_looked_up(tmp_path):
    values = np.array([[0, 1, 2]], np.uint8)
    picture = Image.fromarray(values)
    picture.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    assert picture.mode == "P"
    picture.save(tmp_path / "x.png")
    expected = as_float([[[255, 0, 0], [0, 255, 0], [10, 20, 30]]])
    np.testing.assert_allclose(read_image(tmp_path / "x.png"), expected, atol=1e-6)


@pytest.mark.parametrize(("suffix", "mode"), [("png", "I;16"), ("tiff", "I;16"), ("tiff", "I")])
def test_sixteen_bits_keep_their_precision(tmp_path, suffix, mode):
    values = np.array([[0, 1, 256, 32768, 65535]])
    Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.int32)).save(tmp_path / f"x.{suffix}")
    with Image.open(tmp_path / f"x.{suffix}") as picture:
        assert picture.mode == mode
    x = read_image(tmp_path / f"x.{suffix}")
    np.testing.assert_allclose(x[..., 1], values / 32767.5 - 1, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[70000]], np.int32), r"outside 0\.\.65535"),
        (np.array([[-1]], np.int32), r"outside 0\.\.65535"),
        (np.array([[0.5]], np.float32), "floats"),
    ],
)
def test_files_without_a_known_range_are_refused(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "x.tiff")
    with pytest.raises(ValueError, match=message):
        read_image(tmp_path / "x.tiff")


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.array([[[0, 100, 200, 0], [0, 100, 200, 255], [0, 100, 200, 51]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "x.png")
    expected = as_float([[[255, 255, 255], [0, 100, 200], [204, 224, 244]]])
    np.testing.assert_allclose(read_image(tmp_path / "x.png"), expected, atol=1e-6)


def test_transparency_is_laid_over_another_background(tmp_path):
    rgba = np.array([[[0, 100, 200, 0], [0, 100, 200, 255], [0, 100, 200, 51]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "x.png")
    expected = as_float([[[0, 0, 0], [0, 100, 200], [0, 20, 40]]])
    np.testing.assert_allclose(read_image(tmp_path / "x.png", background=-1.0), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_transparent_colour_is_white(tmp_path, mode):
    picture = Image.fromarray(np.array([[0, 90]], np.uint8)).convert(mode)
    key = (0, 0, 0) if mode == "RGB" else 0
    picture.save(tmp_path / "x.png", transparency=key)
    assert read_image(tmp_path / "x.png")[0, 0].tolist() == [1, 1, 1]
    assert np.all(read_image(tmp_path / "x.png")[0, 1] < 0.9)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(3, lambda v: v[::-1, ::-1]), (6, lambda v: np.rot90(v, -1)), (8, lambda v: np.rot90(v))],
)
def test_the_cameras_orientation_is_applied(tmp_path, orientation, turned):
    values = pixels()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_allclose(read_image(tmp_path / "x.png"), as_float(turned(values)), atol=1e-6)


@pytest.mark.parametrize("wide", [True, False])
def test_size_cuts_the_central_square(tmp_path, wide):
    values = pixels(6, 10) if wide else pixels(10, 6)
    Image.fromarray(values).save(tmp_path / "x.png")
    expected = values[:, 2:8] if wide else values[2:8]
    np.testing.assert_allclose(read_image(tmp_path / "x.png", 6), as_float(expected), atol=1e-6)


@pytest.mark.parametrize("size", [5, 16, 40])
def test_size_resizes_as_pillow_does(tmp_path, size):
    # A smooth picture, so that nothing is clipped by the 8-bit reference.
    ramp = np.linspace(30, 220, 20)
    values = np.stack([ramp + 0 * ramp[:, None], 0 * ramp + ramp[:, None], 0 * ramp[:, None] + ramp])
    values = values.transpose(1, 2, 0).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "x.png")
    x = read_image(tmp_path / "x.png", size)
    expected = Image.fromarray(values).resize((size, size), Image.Resampling.LANCZOS)
    # Pillow rounds to 8 bits after each of its two passes.
    np.testing.assert_allclose(x, as_float(expected), atol=1.5 / 127.5)


def test_resizing_stays_in_range_and_averages(tmp_path):
    checks = 255 * (np.indices((32, 32)).sum(0) % 2).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "x.png")
    np.testing.assert_allclose(read_image(tmp_path / "x.png", 8)[1:-1, 1:-1], 0, atol=0.02)
    step = np.repeat(np.array([[0, 255]], np.uint8), 8, axis=1).repeat(16, axis=0)
    Image.fromarray(step).save(tmp_path / "x.png")
    large = read_image(tmp_path / "x.png", 64)
    assert (large.min(), large.max()) == (-1, 1)


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no image .*absent\.png"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "flipped"])
@pytest.mark.parametrize("suffix", ["png", "jpeg"])
def test_damaged_files_are_refused_in_one_sentence(tmp_path, suffix, damage):
    buffer = io.BytesIO()
    Image.fromarray(pixels(40, 40)).save(buffer, format=suffix)
    raw = buffer.getvalue()
    half = len(raw) // 2
    contents = {"text": b"hello", "empty": b"", "truncated": raw[:half], "flipped": raw[1:]}
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(contents[damage])
    with pytest.raises(ValueError, match=r"x\.(png|jpeg) is ") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_below_one_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match="`size` must be at least 1"):
        read_image(tmp_path / "x.png", size)


def test_to_uint8_clips_and_rounds_and_never_stretches():
    values = np.array([-7.0, -1.0, -1 + 1.1 / 255, 0.0, 1.0, 1.2])
    assert to_uint8(values).tolist() == [0, 0, 1, 128, 255, 255]
    np.testing.assert_array_equal(to_uint8(np.full((4, 4, 3), 0.2)), 153)
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(as_float(every).astype(np.float32)), every)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_to_uint8_refuses_what_is_not_finite(bad):
    with pytest.raises(ValueError, match="finite, got 1 NaN or infinite"):
        to_uint8(np.array([0.0, bad]))


def test_to_uint8_refuses_integers():
    with pytest.raises(ValueError, match="got uint8"):
        to_uint8(np.zeros((2, 2, 3), np.uint8))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_is_read_back(tmp_path, channels):
    x = image(channels=channels)
    write_image(tmp_path / "new" / "x.png", jnp.asarray(x))
    with Image.open(tmp_path / "new" / "x.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "L" if channels == 1 else "RGB")
    back = read_image(tmp_path / "new" / "x.png")
    np.testing.assert_allclose(back, np.broadcast_to(x, (6, 9, 3)), atol=0.5 / 127.5 + 1e-6)
    write_image(tmp_path / "again.png", back)
    np.testing.assert_array_equal(read_image(tmp_path / "again.png"), back)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 2), (4, 4, 4), (2, 4, 4, 3), (0, 4, 3)])
def test_other_shapes_are_not_written(tmp_path, shape):
    with pytest.raises(ValueError, match=r"must have shape \(h, w, 1\) or \(h, w, 3\)"):
        write_image(tmp_path / "x.png", np.zeros(shape))
    assert list(tmp_path.iterdir()) == []


def test_names_must_end_in_the_format(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png"):
        write_image(tmp_path / "x.jpg", image())
    with pytest.raises(ValueError, match=r"must end in \.gif"):
        write_gif(tmp_path / "x.mp4", [image()])
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_image(tmp_path / "x.png", image())
    before = (tmp_path / "x.png").read_bytes()

    def stop(self, file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "x.png", image(seed=1))
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [before]


def read_frames(path):
    with Image.open(path) as picture:
        for i in range(getattr(picture, "n_frames", 1)):
            picture.seek(i)
            yield picture.info["duration"], np.asarray(picture.convert("RGB")), picture.info


@pytest.mark.parametrize("channels", [1, 3])
def test_gif_frames_durations_and_loop(tmp_path, channels):
    frames = [np.full((8, 8, channels), value, np.float32) for value in (-1.0, 0.0, 1.0)]
    write_gif(tmp_path / "x.gif", np.stack(frames), ms=[50, 60, 1000])
    durations, pictures, infos = zip(*read_frames(tmp_path / "x.gif"), strict=True)
    assert durations == (50, 60, 1000)
    assert infos[0]["loop"] == 0
    np.testing.assert_allclose([p.mean() for p in pictures], [0, 128, 255], atol=1)
    write_gif(tmp_path / "y.gif", frames, ms=40)
    assert [duration for duration, *_ in read_frames(tmp_path / "y.gif")] == [40, 40, 40]


@pytest.mark.parametrize(
    ("frames", "ms", "message"),
    [
        ([], 100, "`frames` must be one or more images"),
        ([image(), image(5, 5)], 100, "of one shape"),
        ([image()], 10, "`ms` must be at least 20"),
        ([image()], [100, 100], "one or 1 numbers"),
        ([np.full((4, 4, 3), np.nan)], 100, "finite"),
    ],
)
def test_bad_gifs_are_refused(tmp_path, frames, ms, message):
    with pytest.raises(ValueError, match=message):
        write_gif(tmp_path / "x.gif", frames, ms)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_places_images_row_by_row_on_white(channels):
    images = [image(4, 5, channels, seed) for seed in range(5)]
    sheet = grid(images, columns=3, padding=2)
    assert sheet.shape == (2 * 6 + 2, 3 * 7 + 2, channels)
    found = np.ones_like(sheet)
    for i, x in enumerate(images):
        top, left = 2 + 6 * (i // 3), 2 + 7 * (i % 3)
        np.testing.assert_array_equal(sheet[top : top + 4, left : left + 5], x)
        found[top : top + 4, left : left + 5] = x
    np.testing.assert_array_equal(sheet, found)


def test_grid_of_a_stack_is_no_wider_than_its_images():
    stack = jnp.asarray(np.stack([image(), image(seed=1)]))
    np.testing.assert_array_equal(grid(stack, 8, padding=0), np.concatenate(list(stack), axis=1))


@pytest.mark.parametrize(
    ("images", "columns", "padding"),
    [
        ([], 1, 0),
        ([image(), image(3, 3)], 1, 0),
        (image(), 1, 0),
        ([image()], 0, 0),
        ([image()], 1, -1),
    ],
)
def test_bad_grids_are_refused(images, columns, padding):
    with pytest.raises(ValueError, match="must be"):
        grid(images, columns, padding)


def test_heat_goes_from_black_to_white_by_even_lightness():
    ramp = (heat(np.linspace(0, 2, 201)[None], vmax=2.0)[0].astype(np.float64) + 1) / 2
    np.testing.assert_allclose(ramp[[0, -1]], [[0, 0, 0], [1, 1, 1]], atol=1e-6)
    linear = np.where(ramp <= 0.04045, ramp / 12.92, ((ramp + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)
    assert np.all(np.diff(lightness) > 0)
    np.testing.assert_allclose(lightness, np.linspace(0, 100, 201), atol=6)


def test_heat_saturates_and_has_an_absolute_scale():
    x = np.array([[0.0, 0.5, 1.0, 9.0]])
    coloured = heat(jnp.asarray(x), 1.0)
    np.testing.assert_array_equal(coloured[0, 3], [1, 1, 1])
    np.testing.assert_allclose(heat(x / 10, 0.1), coloured, atol=1e-6)
    np.testing.assert_array_equal(heat(x[:, :2], 1.0), coloured[:, :2])


@pytest.mark.parametrize(
    ("x", "vmax"),
    [
        (np.zeros((2, 2, 1)), 1.0),
        (-np.ones((2, 2)), 1.0),
        (np.full((2, 2), np.nan), 1.0),
        (np.zeros((2, 2)), 0.0),
        (np.zeros((2, 2)), np.nan),
    ],
)
def test_bad_maps_are_refused(x, vmax):
    with pytest.raises(ValueError, match="must be"):
        heat(x, vmax)


def find(sheet, x, scale):
    """Whether the image stands somewhere in the sheet, enlarged pixel by pixel."""
    large = np.kron(to_uint8(x), np.ones((scale, scale, 1), np.uint8))
    windows = np.lib.stride_tricks.sliding_window_view(to_uint8(sheet), large.shape)
    places = np.argwhere((windows == large).all(axis=(-3, -2, -1)))
    return [tuple(place[:2].tolist()) for place in places]


def test_labelled_grid_shows_every_image_exactly_in_its_place():
    rows = [[image(8, 8, seed=1), None], [image(8, 8, seed=2), image(8, 8, seed=3)]]
    sheet = labelled_grid(rows, ["truth", "DPS"], ["a", "b"], scale=3)
    ((top, left),) = find(sheet, rows[0][0], 3)
    ((low, same_left),) = find(sheet, rows[1][0], 3)
    ((same_low, right),) = find(sheet, rows[1][1], 3)
    assert left == same_left
    assert low == same_low
    assert low >= top + 24
    assert right >= left + 24
    # The blank cell and the margins are white.
    assert np.all(sheet[top : top + 24, right - 1 : right + 24] == 1)
    assert np.all(sheet[[0, -1]] == 1)
    assert np.all(sheet[:, [0, -1]] == 1)


def test_grey_and_smaller_images_fill_their_cell():
    full, grey, low = image(16, 16), image(16, 16, 1, 1), image(4, 4, 3, 2)
    sheet = labelled_grid([[full, grey, low]], ["x", "y", "z"], scale=2)
    ((top, _),) = find(sheet, full, 2)
    assert [place[0] for place in find(sheet, np.repeat(grey, 3, axis=-1), 2)] == [top]
    assert [place[0] for place in find(sheet, low, 8)] == [top]


def test_text_is_drawn_where_it_belongs():
    x = np.ones((32, 32, 3), np.float32)
    with_text = labelled_grid([[x]], ["Title"], ["Row"], captions=[["31.2 dB"]], scale=2)
    without = labelled_grid([[x]], [" "], [" "], captions=[[" "]], scale=2)
    dark = with_text[..., 0] < 0
    height, width = dark.shape
    assert dark[: height // 4, width // 2 :].any()
    assert dark[-height // 4 :, width // 2 :].any()
    assert dark[height // 4 : -height // 4, : width // 3].any()
    assert not (without[..., 0] < 0).any()


def test_columns_widen_for_long_titles_and_lines_add_height():
    x = image(16, 16)
    plain = labelled_grid([[x, x]], ["a", "b"])
    long = labelled_grid([[x, x]], ["a", "a much longer title"])
    tall = labelled_grid([[x, x]], ["a", "two\nlines"])
    captioned = labelled_grid([[x, x]], ["a", "b"], captions=[[None, "27 dB"]])
    assert long.shape[1] > plain.shape[1]
    assert long.shape[0] == plain.shape[0]
    assert tall.shape[0] > plain.shape[0]
    assert captioned.shape[0] > plain.shape[0]


def test_characters_that_the_font_lacks_become_question_marks():
    x = image(16, 16)
    np.testing.assert_array_equal(labelled_grid([[x]], ["σ ± 1"]), labelled_grid([[x]], ["? ± 1"]))
    assert not np.array_equal(labelled_grid([[x]], ["± 1"]), labelled_grid([[x]], ["? 1"]))


def test_a_figure_survives_its_png(tmp_path):
    sheet = labelled_grid([[image(16, 16)]], ["truth"], ["face 0"], scale=4)
    write_image(tmp_path / "x.png", sheet)
    np.testing.assert_allclose(read_image(tmp_path / "x.png"), sheet, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([[None, None]], {}, "at least one image"),
        ([], {}, "at least one image"),
        ([[image()]], {}, "must have 2 cells"),
        ([[image(), None]], {"row_titles": ["a", "b"]}, "`row_titles` must have 1 entries"),
        ([[image(), None]], {"captions": [["a"]]}, "row of `captions` must have 2 cells"),
        ([[image(), None]], {"captions": []}, "`captions` must have"),
        ([[image(), None]], {"scale": 0}, "`scale` must be"),
        ([[image(channels=2), None]], {}, "must have shape"),
        ([[np.full((4, 4, 3), np.nan), None]], {}, "finite"),
    ],
)
def test_tables_that_do_not_fit_are_refused(rows, options, message):
    with pytest.raises(ValueError, match=message):
        labelled_grid(rows, ["a", "b"], **options)
