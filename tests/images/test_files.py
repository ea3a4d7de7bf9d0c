"""Picture files: every kind reads as the same numbers, and what is written comes back."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdiff.images.files import read_image, to_uint8, write_gif, write_image
from tests.images.conftest import image


def pixels(h=6, w=9, channels=3, seed=0):
    shape = (h, w, channels) if channels else (h, w)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


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


def test_to_uint8_refuses_integers(unchecked):
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
def test_other_shapes_are_not_written(tmp_path, shape, unchecked):
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
