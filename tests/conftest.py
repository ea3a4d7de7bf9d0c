"""The table of operators and the table of samplers: every law runs on every row."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff import (
    DDIM,
    DDPM,
    DPS,
    MMPS,
    TMPD,
    DPSLikelihood,
    DPSNorm,
    GaussianPrior,
    PiGDM,
    ScoreALD,
    SDEdit,
)
from jaxdiff.measurement import measure
from jaxdiff.networks.unet import UNet, UNetConfig
from jaxdiff.operators import Blur, BoxMask, GaussianBlur, Identity, Mask, RandomMask
from jaxdiff.priors.gaussian import Diagonal
from jaxdiff.samplers import over_gamma, over_variance, twice_over_variance
from jaxdiff.schedule import linear

SHAPE = (8, 8, 3)
SIGMA_Y = 0.05


def lopsided_kernel() -> np.ndarray:
    """A well-conditioned kernel without symmetries, so that a flip or a transpose would show."""
    return np.array([[0.05, 0.1, 0.0], [0.15, 0.5, 0.05], [0.0, 0.1, 0.05]], np.float32)


OPERATORS: dict[str, Callable[[], Any]] = {
    "identity": Identity,
    "mask": lambda: Mask((np.arange(64).reshape(8, 8, 1) % 3 > 0).astype(np.float32)),
    "box": lambda: BoxMask(top=2, left=1, height=4, width=5),
    "random": lambda: RandomMask(jax.random.key(3), SHAPE, keep=0.3),
    "blur": lambda: Blur(lopsided_kernel()),
    "gaussian": lambda: GaussianBlur(std=0.8, size=7),
}

SAMPLERS: dict[str, Callable[[Any, Any, jax.Array], Any]] = {
    "ddpm": lambda denoiser, operator, y: DDPM(denoiser),
    "ddim": lambda denoiser, operator, y: DDIM(denoiser, eta=0.5),
    "sdedit": lambda denoiser, operator, y: SDEdit(denoiser, y),
    "score_ald_over_gamma": lambda denoiser, operator, y: ScoreALD(
        denoiser, operator, y, SIGMA_Y, 10.0, 15.0, weighting=over_gamma
    ),
    "score_ald_over_variance": lambda denoiser, operator, y: ScoreALD(
        denoiser, operator, y, SIGMA_Y, 2.0, 3.0, weighting=over_variance
    ),
    "score_ald_twice_over_variance": lambda denoiser, operator, y: ScoreALD(
        denoiser, operator, y, SIGMA_Y, 3.0, 2.0, weighting=twice_over_variance
    ),
    "dps": lambda denoiser, operator, y: DPS(denoiser, operator, y, zeta=0.1),
    "dps_norm": lambda denoiser, operator, y: DPSNorm(denoiser, operator, y, zeta=0.1),
    # In the dozen steps of most tests the full likelihood (zeta = 1) overshoots, and rounding grows with it.
    "dps_likelihood": lambda denoiser, operator, y: DPSLikelihood(denoiser, operator, y, SIGMA_Y, zeta=0.01),
    "pigdm": lambda denoiser, operator, y: PiGDM(denoiser, operator, y, SIGMA_Y),
    "mmps": lambda denoiser, operator, y: MMPS(denoiser, operator, y, SIGMA_Y),
    "tmpd": lambda denoiser, operator, y: TMPD(denoiser, operator, y, SIGMA_Y),
}


def random_weights(config: UNetConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a network, none of them zero; far quicker than building it, which compiles every initialiser."""
    network: Any = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(seed)
    flat = nnx.to_flat_state(nnx.state(network, nnx.Param))
    return {".".join(map(str, path)): 0.1 * rng.normal(size=v.shape).astype(np.float32) for path, v in flat}


def gaussian_denoiser() -> GaussianPrior:
    """A prior with a different mean and variance at every pixel."""
    key_mean, key_variance = jax.random.split(jax.random.key(1))
    mean = 0.3 * jax.random.normal(key_mean, SHAPE)
    variance = jax.random.uniform(key_variance, SHAPE, minval=0.05, maxval=0.4)
    return GaussianPrior(mean, Diagonal(variance), linear())


def small_problem() -> tuple[GaussianPrior, Any, jax.Array]:
    """A denoiser, an operator and a measurement."""
    denoiser = gaussian_denoiser()
    operator = OPERATORS["random"]()
    truth = denoiser.mean + jnp.sqrt(denoiser.variance) * jax.random.normal(jax.random.key(5), SHAPE)
    return denoiser, operator, measure(jax.random.key(6), operator, truth, SIGMA_Y)


@pytest.fixture(params=OPERATORS)
def operator(request: pytest.FixtureRequest) -> Any:
    return OPERATORS[request.param]()


@pytest.fixture(params=SAMPLERS)
def sampler(request: pytest.FixtureRequest) -> Any:
    return SAMPLERS[request.param](*small_problem())
