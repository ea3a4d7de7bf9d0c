"""DPS with the original PyTorch network at full FFHQ width, in the official loop, and here with converted weights."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convert_weights.formats.guided_diffusion.names import from_torch
from jaxdiff import DPS, Denoiser, DPSNorm, Measurement, sample
from jaxdiff.networks.unet import FFHQ_256, UNet
from jaxdiff.operators import Mask
from jaxdiff.priors.storage import with_parameters
from jaxdiff.schedule import linear, time_grid
from tests import reference
from tests.golden.make_unet_parity import draw_weights

pytestmark = pytest.mark.parity

SHAPE, STEPS, ZETA = (32, 32, 3), 4, 0.2
KEY = jax.random.key(0)
# Both run in float32. At time 999 an estimate is 1/alpha = 157 times a difference of two numbers, so that outputs that
# differ by 3e-7 make estimates that differ by 4e-5; the gradient, 157 times as steep, moves `x` by as much.
BOUND = 2e-4


class Both(NamedTuple):
    """One network, twice."""

    network: UNet
    original: Any


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    torch = pytest.importorskip("torch")
    pytest.importorskip("azula")
    from experiments.benchmark.torch_networks import make_torch_unet

    weights = draw_weights(FFHQ_256)
    # The output is small beside the noise, so that an untrained network's chain tends to an image all the same.
    for name in ("out.2.weight", "out.2.bias"):
        weights[name] *= np.float32(0.1)
    original = make_torch_unet(FFHQ_256).eval().requires_grad_(False)
    original.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=True)
    network = nnx.eval_shape(lambda: UNet(FFHQ_256, rngs=nnx.Rngs(0)))
    # At this size PyTorch's threads mostly wait for each other.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Both(with_parameters(network, from_torch(weights, FFHQ_256)), original)
    torch.set_num_threads(threads)


def make_measurement() -> tuple[np.ndarray, np.ndarray]:
    """Returns a mask and, with noise on hidden pixels too as the authors have it, what it leaves of an image."""
    rng = np.random.default_rng(0)
    mask = (rng.random((*SHAPE[:2], 1)) < 0.3).astype(np.float32)
    y = mask * rng.uniform(-1, 1, SHAPE) + 0.05 * rng.normal(size=SHAPE)
    return mask, y.astype(np.float32)


def noise(t: int) -> np.ndarray:
    return np.asarray(jax.random.normal(jax.random.fold_in(KEY, jnp.int32(t)), SHAPE))


def run_official(original: Any, unit: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns every `x`, every estimate, and every estimate before the clip, of the loop that autograd guides.

    Args:
        original: the PyTorch network.
        unit: whether the gradient is the reports' (of the squared norm, of unit length) or the authors' (of the norm).
    """
    import torch  # pyright: ignore[reportMissingImports]

    to_torch = lambda array: torch.from_numpy(np.array(array).transpose(2, 0, 1)[None].copy())
    chain = reference.Chain(reference.respace(STEPS))
    mask, y = map(to_torch, make_measurement())
    x_t = float(np.sqrt(1 - chain.alpha_bar[-1])) * to_torch(noise(-1))
    trace = []
    for i in reversed(range(STEPS)):
        x_t = x_t.detach().requires_grad_()
        eps, v = original(x_t, torch.tensor([chain.times[i]])).chunk(2, dim=1)
        from_x_t, from_eps = np.sqrt(1 / chain.alpha_bar[i]), np.sqrt(1 / chain.alpha_bar[i] - 1)
        unclipped = float(from_x_t) * x_t - float(from_eps) * eps
        x0 = unclipped.clamp(-1, 1)
        fraction = (v + 1) / 2
        log_variance = fraction * float(np.log(chain.betas[i])) + (1 - fraction) * float(chain.log_variance[i])
        x_s = float(chain.from_x0[i]) * x0 + float(chain.from_x_t[i]) * x_t
        if i > 0:
            x_s = x_s + torch.exp(log_variance / 2) * to_torch(noise(chain.times[i]))
        norm = torch.linalg.norm(y - mask * x0)
        (gradient,) = torch.autograd.grad(norm**2 if unit else norm, x_t)
        x_t = x_s - ZETA * (gradient / torch.linalg.norm(gradient) if unit else gradient)
        trace.append([array.detach()[0].permute(1, 2, 0).numpy() for array in (x_t, x0, unclipped)])
    x, x0, unclipped = map(np.stack, zip(*trace, strict=True))
    return x, x0, unclipped


@pytest.mark.slow
@pytest.mark.parametrize("form", [DPSNorm, DPS])
def test_every_step_is_that_of_the_original_network_in_the_official_loop(both, form):
    expected_images, expected_x0_hats, unclipped = run_official(both.original, unit=form is DPS)
    mask, y = make_measurement()
    prior = Denoiser(both.network, linear(), SHAPE, variance="learned_range")

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def follow(sampler, key):
        return sample(sampler, key, time_grid(1000, STEPS), trace=lambda x_s, prediction: (x_s, prediction.x0_hat))[1]

    with jax.default_matmul_precision("float32"):
        images, x0_hats = follow(form(prior, Measurement(Mask(mask), jnp.asarray(y), 0.05), ZETA), KEY)
    off = np.stack([np.abs(images - expected_images), np.abs(x0_hats - expected_x0_hats)]).max((2, 3, 4))
    assert off.max() < BOUND, off
    # The clip holds some entries and not others, and no measured one is so near its edge that rounding would decide.
    inside = (np.abs(unclipped) < 1).mean((1, 2, 3))
    assert 0.002 < inside.min() < inside.max() < 0.8
    assert np.abs(np.abs(unclipped[np.broadcast_to(mask, unclipped.shape) > 0]) - 1).min() > BOUND
