# The package is imported after the check of its annotations is installed.
# ruff: noqa: E402
"""The tables of noise models and samplers, on which every law runs, and what several wings share."""

import getpass
import inspect
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Compiled programs are kept from run to run, and shared by the workers and by the processes that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/jaxdiff-tests-{getpass.getuser()}")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Small programs that run once: compiling them well takes longer than running them. XLA's older emitters of loops
# compile twice as quickly as its newer ones; a later jaxlib may have no such flag, and would not start with it.
QUICK = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1"
if QUICK and tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {os.environ.get('XLA_FLAGS', '')}"

from jaxtyping import install_import_hook

import tests.typechecking  # noqa: F401

# Shapes and types are checked at run time; before the package is imported.
install_import_hook("jaxdiff", "tests.typechecking.check")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray
from jaxtyping import config as jaxtyping_config

from jaxdiff import DDIM, DDPM, DPS, MMPS, Denoiser, DPMSolver, DPSLikelihood, GaussianPrior, Heun, PiGDM, load_prior
from jaxdiff.measurement import Measurement, measure
from jaxdiff.networks.unet import UNetConfig
from jaxdiff.noise import GaussianNoise, HeteroscedasticNoise, PoissonGaussianNoise, PoissonNoise
from jaxdiff.operators import Identity
from jaxdiff.priors.config import KINDS, NetworkConfig, PriorConfig
from jaxdiff.priors.denoiser import Prediction, Prior, WrappedPrior
from jaxdiff.priors.gaussian import Diagonal
from jaxdiff.priors.storage import save_prior, with_parameters
from jaxdiff.pytree import pytree
from jaxdiff.runs.methods import METHODS, HyperParameters, make_run
from jaxdiff.samplers.base import ancestral_step, perturb
from jaxdiff.schedule import linear, time_grid
from tests.operators.conftest import OPERATORS, SHAPE, Saturation, Sums, Waves

SIGMA_Y = 0.05
"""Of the measurement noise, in units of [-1, 1] images."""

TINY = UNetConfig(16, 8, (1, 2), 1, (8,), num_heads=2, out_channels=6, norm_groups=4)
"""A network for tests of files and scripts, on pictures of 16x16."""


def pytest_configure(config: pytest.Config) -> None:
    """A program that another worker is still writing to the cache is compiled again, with a warning."""
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that need PyTorch, or a browser, by what they ask for, and those of scripts as slow."""
    for item in items:
        source = inspect.getsource(getattr(item, "function", None) or type(item))
        asked = set(getattr(item, "fixturenames", ())) & {"torch", "adm", "both", "azula", "peers", "written"}
        if asked or 'importorskip("torch' in source:
            item.add_marker(pytest.mark.parity)
        if item.path.parent.name in ("cli", "convert_weights", "experiments") or item.get_closest_marker("thorough"):
            item.add_marker(pytest.mark.slow)
        if item.path.stem.endswith("_browser"):
            item.add_marker(pytest.mark.browser)


# Noise models

NOISES: dict[str, Callable[[], Any]] = {
    "gaussian": lambda: GaussianNoise(SIGMA_Y),
    "level of a colour": lambda: HeteroscedasticNoise(np.array([0.02, SIGMA_Y, 0.2], np.float32)),
    "poisson": lambda: PoissonNoise(peak=40.0),
    "few photons": lambda: PoissonNoise(peak=3.0),
    "camera": lambda: PoissonGaussianNoise(peak=40.0, sigma_y=SIGMA_Y),
}


# Priors


@pytree
class Passed(WrappedPrior):
    """A wrapped prior that passes everything on."""

    prior: Prior

    def predict(self, x_t: Float[Array, "h w c"], t: Any) -> Prediction:
        return self.prior.predict(x_t, t)


def variance_map() -> Array:
    """A variance of its own for every pixel."""
    return jnp.asarray(np.random.default_rng(1).uniform(0.05, 0.4, SHAPE), jnp.float32)


def mean_vectors(count: int) -> np.ndarray:
    """Means of priors, one in a row."""
    return np.random.default_rng(11).normal(scale=0.5, size=(count, 144)).astype(np.float32).astype(np.float64)


def gaussian_prior() -> GaussianPrior:
    """A prior with a different mean and variance at every pixel."""
    mean = 0.6 * mean_vectors(1)[0].reshape(SHAPE)
    return GaussianPrior(jnp.asarray(mean, jnp.float32), Diagonal(variance_map()), linear())


def abstract_network(config: NetworkConfig) -> Any:
    """A network without weights."""
    make: Any = KINDS[PriorConfig(config).kind].network
    return nnx.eval_shape(lambda: make(config, rngs=nnx.Rngs(0)))


def random_weights(config: NetworkConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a network, none of them zero; far quicker than building it, which compiles every initialiser."""
    rng = np.random.default_rng(seed)
    flat = nnx.to_flat_state(nnx.state(abstract_network(config), nnx.Param))
    return {".".join(map(str, path)): 0.1 * rng.normal(size=v.shape).astype(np.float32) for path, v in flat}


def random_network(config: NetworkConfig) -> Any:
    """A network with such weights."""
    return with_parameters(abstract_network(config), random_weights(config))


def network_prior() -> Denoiser:
    """A network whose attention, norms and convolutions could each mix up a batch."""
    config = UNetConfig(8, 8, (1,), 1, (8,), num_heads=2, out_channels=6, norm_groups=4)
    return Denoiser(random_network(config), linear(), SHAPE, variance="learned_range")


def network_sampler() -> DPS:
    """DPS with `network_prior`."""
    return DPS(network_prior(), Measurement(Identity(), jnp.linspace(-1, 1, 144).reshape(SHAPE), SIGMA_Y), zeta=0.1)


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
    "dpm-solver": lambda prior, measurement: DPMSolver(prior),
    "heun": lambda prior, measurement: Heun(prior),
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


OTHERS = ("mpgd", "dsg", "lgd", "mcg", "repaint", "daps", "red-diff", "pnp-dm", "fast-dips")
"""Rows whose laws only the whole check runs; each has quick tests of its own."""


def with_marks(names: Iterable[str]) -> list[Any]:
    """Marks the rows that only the whole check runs, for `pytest.mark.parametrize`."""
    return [pytest.param(name, marks=pytest.mark.thorough) if name in OTHERS else name for name in names]


@cache
def sampler_of(name: str) -> Any:
    """A row of `SAMPLERS` on the small problem."""
    return SAMPLERS[name](*small_problem())


@contextmanager
def compiled_well() -> Iterator[None]:
    """For programs that run for longer than it takes to compile them."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


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


@pytest.fixture(scope="module", autouse=True)
def programs_freed() -> Iterator[None]:
    """Frees the compiled programs of a module: they hold memory maps, and a process that has used up Linux's dies."""
    yield
    jax.clear_caches()
