"""JPEG: against Pillow's files, and the images that one file can be of."""

import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter

from jaxdiff import DDIM, DDNM, DPS, DiffPIR, GaussianPrior, sample
from jaxdiff.measurement import Measurement
from jaxdiff.operators import JPEG, Grey
from jaxdiff.operators.base import is_linear
from jaxdiff.operators.jpeg import SUBSAMPLING
from jaxdiff.priors.gaussian import Diagonal
from jaxdiff.schedule import linear, time_grid

# One program for all qualities.
compress = jax.jit(lambda operator, x: operator(x))
project = jax.jit(lambda operator, x, y: operator.project(x, y))
read = jax.jit(lambda operator, y: operator.read(y))
encode = jax.jit(lambda operator, x: operator.encode(x))
both_sizes = pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
all_sizes = pytest.mark.parametrize("subsampling", SUBSAMPLING)
qualities = pytest.mark.parametrize("quality", [10, 30, 75])


def picture(sides: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth colours, in levels, clear of black and white."""
    noise = np.random.default_rng(seed).normal(size=(sides[0] + 40, sides[1] + 40, 3))
    smooth = gaussian_filter(noise, (3, 3, 0.5))[20:-20, 20:-20]
    return np.round(127.5 + 90 * smooth / np.abs(smooth).max()).astype(np.uint8)


def scaled(levels: np.ndarray) -> jax.Array:
    return jnp.asarray(levels / 127.5 - 1, jnp.float32)


def written(levels: np.ndarray, quality: int, subsampling: str) -> Any:
    """What Pillow reads of the file that it wrote."""
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return Image.open(file)


def luma_and_chroma(x: Any) -> np.ndarray:
    """Pixels in the metric of the projection."""
    to_ycc = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return np.asarray(x, np.float64) @ to_ycc.T


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95, 100])
def test_tables_are_pillows(quality):
    tables = written(picture((16, 16)), quality, "4:4:4").quantization
    np.testing.assert_array_equal(JPEG(quality).tables.reshape(2, 64), [tables[0], tables[1]])
    assert JPEG(tables=[tables[0], tables[1]]) == JPEG(quality)


@qualities
@both_sizes
@pytest.mark.parametrize("sides", [(64, 48), (50, 70), (33, 121)])
def test_pictures_become_those_of_pillows_files(sides, subsampling, quality):
    """Pillow rounds pixels before and after; few coefficients, at the edge of rounding, become others by that."""
    levels = picture(sides)
    decoded = np.asarray(written(levels, quality, subsampling), np.float64)
    y = compress(JPEG(quality, subsampling), scaled(levels))
    apart = np.abs(127.5 * (np.asarray(y) + 1) - decoded)
    assert apart.mean() < 1.5
    assert np.median(apart) < 1.5


@qualities
@both_sizes
def test_a_file_is_decoded_as_pillow_does(subsampling, quality):
    """The coefficients that its pixels tell give them again, up to the rounding of luma, chroma and colours."""
    operator, levels = JPEG(quality, subsampling), picture((64, 48))
    decoded = np.asarray(written(levels, quality, subsampling))
    again = operator.decode(read(operator, scaled(decoded)), (64, 48))
    assert np.abs(127.5 * (again + 1) - decoded).max() < 2.5
    same = [a == b for a, b in zip(read(operator, scaled(decoded)), encode(operator, scaled(levels)), strict=True)]
    assert min(float(plane.mean()) for plane in same) > 0.98


WAYS = {"4:2:2": "422", "4:4:0": "440", "4:1:1": "411"}


@pytest.mark.parametrize("subsampling", WAYS)
def test_chroma_that_neighbours_share_is_that_of_libjpegs_files(subsampling):
    """Files of OpenCV, which writes what Pillow does not; read by Pillow, as ever."""
    cv2 = pytest.importorskip("cv2")
    operator, levels = JPEG(30, subsampling), picture((32, 64))
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{WAYS[subsampling]}")
    flags = [cv2.IMWRITE_JPEG_QUALITY, 30, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    _, file = cv2.imencode(".jpg", levels[..., ::-1], flags)
    decoded = np.asarray(Image.open(io.BytesIO(file.tobytes())))
    again = operator.decode(read(operator, scaled(decoded)), (32, 64))
    assert np.abs(127.5 * (again + 1) - decoded).max() < 2.5
    same = [a == b for a, b in zip(read(operator, scaled(decoded)), encode(operator, scaled(levels)), strict=True)]
    assert min(float(plane.mean()) for plane in same) > 0.98


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_file_is_the_file_of_a_turned_picture(orientation):
    """Pillow turns the picture; sides that hold no whole number of blocks tell where blocks begin."""
    levels, flag = picture((20, 27)), Image.Exif()
    flag[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", exif=flag)
    turned = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    Image.fromarray(levels).save(file := io.BytesIO(), "PNG", exif=flag)
    upright = scaled(np.asarray(ImageOps.exif_transpose(Image.open(file))))
    plain, operator = JPEG(75), JPEG(75, orientation=orientation)
    assert np.abs(127.5 * (operator(upright) + 1) - turned).mean() < 1.0
    for stored, other in zip(operator.encode(upright), plain.encode(scaled(levels)), strict=True):
        np.testing.assert_array_equal(stored, other)
    y = operator(upright)
    np.testing.assert_array_less(jnp.abs(operator.project(0 * upright, y) - y).mean(), jnp.abs(y).mean() / 2)


@qualities
@all_sizes
def test_the_coefficients_of_a_measurement_are_read_from_it(subsampling, quality):
    operator, x = JPEG(quality, subsampling), scaled(picture((32, 64)))
    for stored, encoded in zip(read(operator, compress(operator, x)), encode(operator, x), strict=True):
        np.testing.assert_array_equal(stored, encoded)


@qualities
@both_sizes
def test_the_projection_is_the_nearest_image_of_the_same_file(subsampling, quality):
    """It is compressed to `y`, stays where it is, and all others that are lie on its far side."""
    operator, truth, x = JPEG(quality, subsampling), scaled(picture((32, 48))), scaled(picture((32, 48), seed=1))
    y = compress(operator, truth)
    nearest = project(operator, x, y)
    np.testing.assert_allclose(compress(operator, nearest), y, atol=1e-5)
    np.testing.assert_allclose(project(operator, nearest, y), nearest, atol=1e-5)
    np.testing.assert_array_less(jnp.abs(nearest - truth).mean(), jnp.abs(x - truth).mean())
    for seed in range(2, 6):
        other = project(operator, scaled(picture((32, 48), seed)), y)
        away = np.vdot(luma_and_chroma(x - nearest), luma_and_chroma(other - nearest))
        assert away < 1e-3 * np.linalg.norm(luma_and_chroma(x - nearest))


@both_sizes
@pytest.mark.parametrize("sides", [(333, 257), (17, 400), (5, 3), (1, 1)])
def test_any_size_is_taken(subsampling, sides):
    """Whole blocks are projected as at other sizes; the image that was measured is hardly moved anywhere."""
    operator, truth = JPEG(30, subsampling), scaled(picture(sides))
    y = compress(operator, truth)
    assert y.shape == truth.shape
    assert float(jnp.abs(project(operator, truth, y) - truth).mean()) < 0.01
    x = scaled(picture(sides, seed=1))
    nearest = project(operator, x, y)
    assert float(jnp.abs(nearest - truth).mean()) < float(jnp.abs(x - truth).mean())


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16", "uint8"])
@pytest.mark.usefixtures("unchecked")
def test_the_type_of_pixels_is_kept(dtype):
    with jax.enable_x64(True):
        y = JPEG()(jnp.ones((8, 16, 3), dtype))
        assert y.dtype == (dtype if dtype != "uint8" else jnp.float64)
        np.testing.assert_allclose(np.asarray(y, np.float64), 1, atol=0.02)


def test_the_derivative_is_that_without_rounding():
    """Compression with all coefficients kept is the identity at full size of chroma."""
    x, direction = scaled(picture((16, 24))), scaled(picture((16, 24), seed=1))
    _, moved = jax.jvp(JPEG(30, "4:4:4"), (x,), (direction,))
    np.testing.assert_allclose(moved, direction, atol=1e-5)
    _, moved = jax.jvp(JPEG(30), (x,), (direction,))
    finest = JPEG(tables=np.full(128, 1e-3))
    np.testing.assert_allclose(moved, finest(direction), atol=1e-4)


def test_it_is_a_tree_of_its_tables_and_not_linear():
    x = scaled(picture((16, 24)))
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), JPEG(10), JPEG(90))
    together = jax.vmap(lambda operator: compress(operator, x))(stacked)
    np.testing.assert_allclose(together, jnp.stack([JPEG(10)(x), JPEG(90)(x)]), atol=1e-5)
    assert JPEG(10) == JPEG(10) != JPEG(90)
    assert JPEG(10) != JPEG(10, "4:4:4")
    assert not is_linear(JPEG(), jax.ShapeDtypeStruct((16, 24, 3), jnp.float32))


def white_prior() -> GaussianPrior:
    """Independent pixels: the posterior mean given `x_t` is a multiple of it."""
    return GaussianPrior(jnp.zeros((16, 32, 3)), Diagonal(jnp.full((16, 32, 3), 0.2)), linear())


@pytest.mark.slow
@both_sizes
def test_ddnm_projects_the_posterior_mean_and_its_samples_are_of_the_file(subsampling):
    operator, truth = JPEG(10, subsampling), scaled(picture((16, 32)))
    measurement = Measurement(operator, compress(operator, truth), 0.0)
    guided, x_t = DDNM(white_prior(), measurement), jax.random.normal(jax.random.key(1), truth.shape)
    moved = guided.predict(x_t, 300).x0_hat
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[300]
    mean = float(alpha_bar**0.5 * 0.2 / (alpha_bar * 0.2 + 1 - alpha_bar)) * x_t
    np.testing.assert_allclose(moved, project(operator, mean, measurement.y), atol=1e-5)
    x, _ = sample(DDIM(guided), jax.random.key(2), time_grid(1000, 8))
    np.testing.assert_allclose(compress(operator, x), measurement.y, atol=1e-5)


@pytest.mark.slow
def test_dps_follows_the_derivative_and_rules_for_linear_operators_refuse():
    operator, truth = JPEG(10, "4:4:4"), scaled(picture((16, 32)))
    measurement = Measurement(operator, compress(operator, truth), 0.05)
    free, near = (
        sample(DPS(white_prior(), measurement, zeta=zeta), jax.random.key(2), time_grid(1000, 20))[0]
        for zeta in (0.0, 0.5)
    )
    assert float(measurement.residual_ratio(near)) < 0.7 * float(measurement.residual_ratio(free))
    with pytest.raises(ValueError, match="linear"):
        DiffPIR(white_prior(), measurement)


def test_grey_is_pillows():
    levels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    grey = 127.5 * (Grey()(scaled(levels))[..., 0] + 1)
    np.testing.assert_allclose(grey, np.asarray(Image.fromarray(levels).convert("L")), atol=0.51)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: JPEG(0), "quality"),
        (lambda: JPEG(101), "quality"),
        (lambda: JPEG(50, "4:1:0"), "subsampling"),
        (lambda: JPEG(50, orientation=9), "orientation"),
        (lambda: JPEG(tables=np.ones(64)), "tables"),
        (lambda: JPEG(tables=np.zeros(128)), "tables"),
        (lambda: Grey((0.0, 0.0, 0.0)), "weights"),
        (lambda: Grey((1.0, -1.0, 1.0)), "weights"),
        (lambda: Grey((1.0, float("nan"), 1.0)), "weights"),
    ],
)
def test_bad_arguments_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.usefixtures("unchecked")
def test_a_grey_image_is_no_jpeg_here():
    with pytest.raises(ValueError, match="three colours"):
        JPEG()(jnp.zeros((8, 8, 1)))
