# The package is imported after the check of its annotations is installed.
# ruff: noqa: E402
"""The tables of operators, noise models, priors and samplers, on which every law runs; and all shared fixtures."""

import getpass
import inspect
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

# Compiled programs are kept from run to run, and shared by the workers and by the processes that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/jaxdiff-tests-{getpass.getuser()}")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

from jaxtyping import install_import_hook

import tests.typechecking  # noqa: F401

# Shapes and types are checked at run time; before the package is imported.
install_import_hook("jaxdiff", "tests.typechecking.check")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array, Complex, Float, PRNGKeyArray
from jaxtyping import config as jaxtyping_config
from PIL import Image

from jaxdiff import DDIM, DDPM, DPS, MMPS, Denoiser, DPSLikelihood, GaussianPrior, MixturePrior, PiGDM, load_prior
from jaxdiff.measurement import Measurement, measure
from jaxdiff.networks.unet import UNet, UNetConfig
from jaxdiff.noise import GaussianNoise, PoissonNoise
from jaxdiff.operators import (
    Bicubic,
    BlockMean,
    Blur,
    BoxMask,
    CircularBlur,
    GaussianBlur,
    Identity,
    Mask,
    RandomMask,
    motion_kernel,
)
from jaxdiff.priors.denoiser import Prediction, Prior, WrappedPrior
from jaxdiff.priors.gaussian import Dense, Diagonal, natural_spectrum
from jaxdiff.priors.storage import PriorConfig, save_prior, with_parameters
from jaxdiff.pytree import pytree
from jaxdiff.runs.methods import METHODS, HyperParameters, make_run
from jaxdiff.samplers.base import ancestral_step, perturb
from jaxdiff.schedule import linear, time_grid
from tests import reference

SHAPE = (8, 6, 3)
"""Of the images of all tables; not square, so that an exchange of height and width would show."""

SIGMA_Y = 0.05
TINY = UNetConfig(16, 8, (1, 2), 1, (8,), num_heads=2, out_channels=6, norm_groups=4)
"""A network for tests of files and scripts, on pictures of 16x16."""


def pytest_configure(config: pytest.Config) -> None:
    """A program that another worker is still writing to the cache is compiled again, with a warning."""
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that need PyTorch, or a browser, by what they ask for."""
    for item in items:
        source = inspect.getsource(getattr(item, "function", None) or type(item))
        asked = set(getattr(item, "fixturenames", ())) & {"torch", "adm", "both", "azula", "peers", "written"}
        if asked or 'importorskip("torch' in source:
            item.add_marker(pytest.mark.parity)
        if item.path.stem.endswith("_browser"):
            item.add_marker(pytest.mark.browser)


# Operators


def lopsided_kernel() -> np.ndarray:
    """A well-conditioned kernel without symmetries, so that a flip or a transpose would show."""
    return np.array([[0.05, 0.1, 0.0], [0.15, 0.5, 0.05], [0.0, 0.1, 0.05]], np.float32)


@pytree
class Sums:
    """A linear operator whose measurement is no image: the sums of all rows and of all columns, as one vector."""

    scale: float = 1.0

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, " m"]:
        return self.scale * jnp.concatenate([x.sum(1).ravel(), x.sum(0).ravel()])


@pytree
class Waves:
    """A linear operator whose measurement is complex: the unitary Fourier transform of every colour."""

    def __call__(self, x: Float[Array, "h w c"]) -> Complex[Array, "h w c"]:
        return jnp.fft.fft2(x, axes=(0, 1), norm="ortho")


def waves_matrix(shape: tuple[int, int, int]) -> np.ndarray:
    """`Waves` as a matrix."""
    rows, columns = (np.exp(-2j * np.pi * np.outer(*[np.arange(n)] * 2) / n) / n**0.5 for n in shape[:2])
    return np.kron(np.kron(rows, columns), np.eye(shape[2]))


@pytree
class Affine:
    """An operator that is linear but for an offset: the image in the range from 0 to 1."""

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        return (x + 1) / 2


@pytree
class Saturation:
    """A non-linear operator: a camera whose sensor fills."""

    gain: float = 2.0

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        return jnp.tanh(self.gain * x)


def sums_matrix(shape: tuple[int, int, int]) -> np.ndarray:
    """`Sums` as a matrix."""
    h, w, c = shape
    place = np.arange(h * w * c).reshape(shape)
    lines = [place[i, :, k] for i in range(h) for k in range(c)] + [place[:, j, k] for j in range(w) for k in range(c)]
    return np.stack([np.isin(np.arange(h * w * c), line).astype(float) for line in lines])


def reduced(x: np.ndarray, factor: int, method: Image.Resampling, margin: int = 0) -> np.ndarray:
    """What Pillow makes of a picture, plane by plane, if it is made smaller by `factor`.

    Args:
        x: `(h, w, c)`.
        factor: divides the sides.
        method: Pillow's.
        margin: pixels of the result that are laid around it first, as a mirror image, and cut off again.
    """
    wide = np.pad(x, [(factor * margin, factor * margin)] * 2 + [(0, 0)], mode="symmetric").astype(np.float32)
    size = (wide.shape[1] // factor, wide.shape[0] // factor)
    planes = [np.asarray(Image.fromarray(plane).resize(size, method)) for plane in np.moveaxis(wide, -1, 0)]
    return np.stack(planes, -1)[margin : size[1] - margin, margin : size[0] - margin]


def smeared(x: np.ndarray, length: float, angle: float) -> np.ndarray:
    """The mean of bilinear views of a picture from 640 places along a line, mirrored beyond its edges."""
    from scipy.ndimage import map_coordinates

    along = length * (np.arange(0.5, 640) / 640 - 0.5)
    rows, columns = np.indices(x.shape[:2])[:, None]
    up, right = np.sin(np.deg2rad(angle)) * along, np.cos(np.deg2rad(angle)) * along
    places = rows - up[:, None, None], columns + right[:, None, None]
    views = [map_coordinates(plane, places, order=1, mode="mirror") for plane in np.moveaxis(x, -1, 0)]
    return np.stack(views, -1).mean(0)


def matrix_of(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A linear function of images as a matrix, column by column."""
    return np.stack([function(unit.reshape(SHAPE)).ravel() for unit in np.eye(144)], 1).astype(np.float64)


class OperatorRow(NamedTuple):
    """An operator, and what it should be: a matrix written down from its definition, or else a function."""

    make: Callable[[], Any]
    matrix: np.ndarray | None = None
    function: Callable[[np.ndarray], np.ndarray] | None = None


CHEQUERED = (np.add.outer(np.arange(8), 2 * np.arange(6))[..., None] % 3 > 0).astype(np.float32)
COLOURED = (np.arange(144).reshape(SHAPE) % 5 > 1).astype(np.float32)
KEPT_ROWS = ("101100", "001001", "001010", "001010", "000000", "100011", "000001", "100001")
KEPT = np.array([[[float(kept)] for kept in row] for row in KEPT_ROWS], np.float32)
BOX = np.ones((8, 6, 1), np.float32)
BOX[2:6, 1:4] = 0
TAPS = np.exp(-0.5 * (np.arange(-3, 4) / 0.8) ** 2)
GAUSSIAN_KERNEL = np.outer(TAPS, TAPS) / TAPS.sum() ** 2

OPERATORS: dict[str, OperatorRow] = {
    "identity": OperatorRow(Identity, np.eye(144)),
    "mask": OperatorRow(lambda: Mask(CHEQUERED), reference.mask_matrix(CHEQUERED, SHAPE)),
    "mask of colours": OperatorRow(lambda: Mask(COLOURED), reference.mask_matrix(COLOURED, SHAPE)),
    "box": OperatorRow(lambda: BoxMask(top=2, left=1, height=4, width=3), reference.mask_matrix(BOX, SHAPE)),
    "random": OperatorRow(lambda: RandomMask(jax.random.key(3), SHAPE, keep=0.3), reference.mask_matrix(KEPT, SHAPE)),
    "blur": OperatorRow(lambda: Blur(lopsided_kernel()), reference.blur_matrix(lopsided_kernel(), SHAPE)),
    "motion blur": OperatorRow(lambda: Blur(motion_kernel(3, 20)), matrix_of(lambda x: smeared(x, 3, 20))),
    "gaussian blur": OperatorRow(lambda: GaussianBlur(0.8, 7), reference.blur_matrix(GAUSSIAN_KERNEL, SHAPE)),
    "circular blur": OperatorRow(
        lambda: CircularBlur(lopsided_kernel()), reference.blur_matrix(lopsided_kernel(), SHAPE, reference.wrap)
    ),
    "block mean": OperatorRow(lambda: BlockMean(2), matrix_of(lambda x: reduced(x, 2, Image.Resampling.BOX))),
    "bicubic": OperatorRow(lambda: Bicubic(2), matrix_of(lambda x: reduced(x, 2, Image.Resampling.BICUBIC))),
    "mirrored bicubic": OperatorRow(
        lambda: Bicubic(2, "mirror"), matrix_of(lambda x: reduced(x, 2, Image.Resampling.BICUBIC, margin=2))
    ),
    "sums": OperatorRow(Sums, sums_matrix(SHAPE)),
    "waves": OperatorRow(Waves, waves_matrix(SHAPE)),
    "affine": OperatorRow(Affine, function=lambda x: (x + 1) / 2),
    "saturation": OperatorRow(Saturation, function=lambda x: np.tanh(2.0 * x)),
}

NOISES: dict[str, Callable[[], Any]] = {
    "gaussian": lambda: GaussianNoise(SIGMA_Y),
    "poisson": lambda: PoissonNoise(peak=40.0),
    "few photons": lambda: PoissonNoise(peak=3.0),
}


# Priors


@pytree
class Passed(WrappedPrior):
    """A wrapped prior that passes everything on."""

    prior: Prior

    def predict(self, x_t: Float[Array, "h w c"], t: Any) -> Prediction:
        return self.prior.predict(x_t, t)


def gaussian_prior() -> GaussianPrior:
    """A prior with a different mean and variance at every pixel."""
    moments = _diagonal()
    return GaussianPrior(jnp.asarray(moments.means[0].reshape(SHAPE), jnp.float32), Diagonal(_variance()), linear())


def random_weights(config: UNetConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a network, none of them zero; far quicker than building it, which compiles every initialiser."""
    network: Any = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(seed)
    flat = nnx.to_flat_state(nnx.state(network, nnx.Param))
    return {".".join(map(str, path)): 0.1 * rng.normal(size=v.shape).astype(np.float32) for path, v in flat}


def network_prior() -> Denoiser:
    """A network whose attention, norms and convolutions could each mix up a batch."""
    config = UNetConfig(8, 8, (1,), 1, (8,), num_heads=2, out_channels=6, norm_groups=4)
    network = with_parameters(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))), random_weights(config))
    return Denoiser(network, linear(), SHAPE, variance="learned_range")


def network_sampler() -> DPS:
    """DPS with `network_prior`."""
    return DPS(network_prior(), Measurement(Identity(), jnp.linspace(-1, 1, 144).reshape(SHAPE), SIGMA_Y), zeta=0.1)


class Moments(NamedTuple):
    """A prior with a closed form, restated: weights, means and covariance matrices of its components, in float64."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The mean of the whole."""
        return self.weights @ self.means

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of the whole."""
        apart = self.means - self.mean
        return np.tensordot(self.weights, self.covariances, 1) + (self.weights[:, None] * apart).T @ apart


def _variance() -> Array:
    return jnp.asarray(np.random.default_rng(1).uniform(0.05, 0.4, SHAPE), jnp.float32)


def _means(count: int) -> np.ndarray:
    return np.random.default_rng(11).normal(scale=0.5, size=(count, 144)).astype(np.float32).astype(np.float64)


def _diagonal() -> Moments:
    return Moments(np.ones(1), 0.6 * _means(1), np.diag(np.asarray(_variance(), np.float64).ravel())[None])


def dense_matrix(seed: int = 0) -> np.ndarray:
    """A covariance without structure, with eigenvalues from 0.01 to 1."""
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(144, 144)))[0]
    return (rotation * np.geomspace(0.01, 1, 144)) @ rotation.T


MOMENTS: dict[str, Callable[[], Moments]] = {
    "diagonal": _diagonal,
    "dense": lambda: Moments(np.ones(1), _means(1), dense_matrix()[None]),
    "stationary": lambda: Moments(np.ones(1), _means(1), reference.natural_covariance(SHAPE)[None]),
    "mixture": lambda: Moments(
        np.array([1, 2, 3]) / 6, _means(3), np.stack([reference.natural_covariance(SHAPE, 0.1)] * 3)
    ),
    "mixture of dense": lambda: Moments(
        np.array([0.5, 0.5]), _means(2), np.stack([dense_matrix(seed) for seed in range(2)])
    ),
}
"""The closed forms among `PRIORS`, written down without the library."""


def _image(vector: np.ndarray) -> Array:
    return jnp.asarray(vector.reshape(SHAPE), jnp.float32)


PRIORS: dict[str, Callable[[], Any]] = {
    "diagonal": gaussian_prior,
    "dense": lambda: GaussianPrior(_image(_means(1)), Dense(dense_matrix()), linear()),
    "stationary": lambda: GaussianPrior(_image(_means(1)), natural_spectrum(SHAPE), linear()),
    "mixture": lambda: MixturePrior(
        (1.0, 2.0, 3.0), [GaussianPrior(_image(m), natural_spectrum(SHAPE, 0.1), linear()) for m in _means(3)]
    ),
    "mixture of dense": lambda: MixturePrior(
        (0.5, 0.5), [GaussianPrior(_image(m), Dense(dense_matrix(k)), linear()) for k, m in enumerate(_means(2))]
    ),
    "network": network_prior,
    "wrapped": lambda: Passed(network_prior()),
    "guided": lambda: MMPS(*small_problem()),
}


@cache
def closed_form(name: str) -> tuple[Any, Moments]:
    """A prior and its moments."""
    return PRIORS[name](), MOMENTS[name]()


# Samplers


@pytree
class Momentum:
    """A sampler whose state is no image: the image, and the estimate of the step before, which the next leans on."""

    prior: Prior
    momentum: float = 0.3

    def init(self, key: PRNGKeyArray, t: Any) -> tuple[Array, Array]:
        nothing = jnp.zeros(self.prior.image_shape)
        return perturb(self.prior.schedule, key, nothing, t), nothing

    def step(self, key: PRNGKeyArray, state: tuple[Array, Array], t: Any, s: Any) -> tuple[Any, Prediction]:
        x_t, before = state
        prediction = self.prior.predict(x_t, t)
        leaning = prediction.x0_hat + self.momentum * (prediction.x0_hat - before)
        x_s = ancestral_step(self.prior.schedule, key, x_t, prediction._replace(x0_hat=leaning), t, s)
        return (x_s, prediction.x0_hat), prediction

    def image(self, state: tuple[Array, Array]) -> Array:
        return state[0]


@pytree
class Bits:
    """A sampler whose image holds the random bits of the keys of its start and of its steps, one below the other."""

    start: Array

    def init(self, key: PRNGKeyArray, t: Any) -> Array:
        return self._append(self.start, key)

    def step(self, key: PRNGKeyArray, drawn: Array, t: Any, s: Any) -> tuple[Array, Prediction]:
        return self._append(drawn, key), Prediction(jnp.zeros(SHAPE))

    def image(self, drawn: Array) -> Array:
        return drawn.reshape(-1, *SHAPE[1:])

    def _append(self, drawn: Array, key: PRNGKeyArray) -> Array:
        return jnp.concatenate([drawn[1:], bits_of(key)[None]])


def bits_of(key: PRNGKeyArray) -> Array:
    """Random bits as numbers that no program rounds; a normal number's last digit depends on the program."""
    return jax.random.bits(key, SHAPE, jnp.uint16).astype(jnp.float32)


def bit_sampler() -> Bits:
    """For a chain of as many steps as `TIMES` has."""
    return Bits(jnp.zeros((len(TIMES), *SHAPE)))


def small_problem() -> tuple[GaussianPrior, Measurement]:
    """A prior, and the measurement of one of its images."""
    prior = gaussian_prior()
    truth = prior.sample(jax.random.key(5))
    return prior, measure(jax.random.key(6), OPERATORS["random"].make(), truth, SIGMA_Y)


def of(operator: Any, noise: Any = SIGMA_Y) -> Measurement:
    """Another measurement of the image of `small_problem`."""
    return measure(jax.random.key(6), operator, gaussian_prior().sample(jax.random.key(5)), noise)


TIMES = time_grid(1000, 12)
"""Of short chains."""

RISING = np.array([999, 800, 600, 300, 600, 300, 600, 300, 150, 80, 20, 0, -1])
"""As many times, some of which come again, after the time has risen."""


def set_up(method: str, **chosen: Any) -> Callable[[Any, Measurement], Any]:
    """A row of the table of methods, for a chain of `TIMES`."""
    return lambda prior, measurement: (
        make_run(method, "inpaint", prior, measurement, len(TIMES) - 1, HyperParameters(**chosen)).sampler
    )


SAMPLERS: dict[str, Callable[[Any, Measurement], Any]] = {
    **{name: set_up(name) for name in METHODS},
    "ddpm": lambda prior, measurement: DDPM(prior),
    "ddim": lambda prior, measurement: DDIM(prior, eta=0.5),
    "score-ald over variance": set_up("score-ald", weighting="over_variance", gamma=(15.0, 20.0)),
    "score-ald twice over variance": set_up("score-ald", weighting="twice_over_variance", gamma=(15.0, 20.0)),
    "guided ddim": lambda prior, measurement: DDIM(MMPS(prior, measurement)),
    "wrapped prior": lambda prior, measurement: DPS(Passed(prior), measurement, zeta=0.1),
    "poisson": lambda prior, measurement: DPSLikelihood(prior, of(Identity(), PoissonNoise(40.0)), zeta=0.01),
    "non-linear": lambda prior, measurement: DPS(prior, of(Saturation()), zeta=0.1),
    "complex": lambda prior, measurement: DPS(prior, of(Waves()), zeta=0.1),
    "guided by complex": lambda prior, measurement: DDPM(MMPS(prior, of(Waves()))),
    "no image measured": lambda prior, measurement: DDPM(PiGDM(prior, of(Sums()))),
    "no image as state": lambda prior, measurement: Momentum(prior),
}


@cache
def sampler_of(name: str) -> Any:
    """A row of `SAMPLERS` on the small problem."""
    return SAMPLERS[name](*small_problem())


# Fixtures


@pytest.fixture(scope="session")
def faces() -> Denoiser:
    """The shipped prior, loaded once."""
    return load_prior("faces-32")


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a prior with a network that is `TINY`."""
    folder: Path = tmp_path_factory.mktemp("prior") / "tiny"
    save_prior(folder, random_weights(TINY), PriorConfig(TINY))
    return str(folder)


@pytest.fixture
def no_lpips_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LPIPS weights of whoever runs the tests must not change what they see."""
    for name in ("JAXDIFF_WEIGHTS", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    monkeypatch.setattr("jaxdiff.metrics.lpips_files.PACKAGE", "no_such_package")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches the check of annotations off: for input that the package itself must refuse."""
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
