"""Three precisions of the network: what they touch, and what stays float32."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff import DPS, Denoiser, Measurement, load_prior, sample
from jaxdiff.networks.unet import UNet, UNetConfig
from jaxdiff.operators import Bicubic
from jaxdiff.priors.storage import with_parameters
from jaxdiff.schedule import linear, time_grid
from tests.conftest import SHAPE, random_weights

CONFIG = UNetConfig(8, 8, (1, 2), 1, (4,), num_heads=2, out_channels=6, norm_groups=4)
DTYPES = ("float32", "tf32", "bfloat16")
PRODUCT = re.compile(r"stablehlo\.(?:convolution|dot_general).*")


@functools.cache
def make_sampler(dtype) -> DPS:
    network = nnx.eval_shape(lambda: UNet(CONFIG, dtype=dtype, rngs=nnx.Rngs(0)))
    prior = Denoiser(with_parameters(network, random_weights(CONFIG)), linear(), SHAPE, variance="learned_range")
    y = jnp.linspace(-1, 1, 36).reshape(4, 3, 3)
    return DPS(prior, Measurement(Bicubic(2), y, 0.05), 0.1)


@functools.cache
def products(dtype) -> list[str]:
    """The convolutions and matrix products of a DPS step on a GPU."""
    step = jax.jit(lambda sampler, key, x: sampler.step(key, x, 500, 490))
    traced = step.trace(make_sampler(dtype), jax.random.key(0), jnp.zeros(SHAPE))
    return PRODUCT.findall(traced.lower(lowering_platforms=("cuda",)).as_text())


@pytest.mark.thorough
def test_float32_asks_for_full_precision_in_every_product_forwards_and_backwards():
    found = products("float32")
    assert len(found) > 50
    assert all("HIGHEST" in line for line in found)


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", ["tf32", "bfloat16"])
def test_the_operator_is_full_float32_whatever_the_network_is(dtype):
    full = [line for line in products(dtype) if "HIGHEST" in line]
    assert len(full) == 4  # two axes of a reduction, and two of its adjoint
    assert all("bf16" not in line for line in full)


def test_bfloat16_rounds_what_every_product_of_the_network_takes():
    """The softmax stays float32, and so do the two products of its gradient, which the forward pass does not have."""
    network = jax.jit(lambda prior, x: prior.predict(x, 500))
    traced = network.trace(make_sampler("bfloat16").prior, jnp.zeros(SHAPE))
    found = PRODUCT.findall(traced.lower(lowering_platforms=("cuda",)).as_text())
    assert len(found) > 20
    assert all(line.split(" : (")[1].count("bf16>") >= 2 for line in found)
    rest = [line for line in products("bfloat16") if "bf16>" not in line]
    attentions = 4
    assert len(rest) == 4 + 2 * attentions


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_chains_and_gradients_are_float32(dtype):
    sampler: Any = make_sampler(dtype)
    out = jax.eval_shape(lambda x: sample(sampler, jax.random.key(0), time_grid(1000, 5), state=x)[0], jnp.zeros(SHAPE))
    assert out.dtype == jnp.float32
    assert jax.eval_shape(lambda x: sampler.prior.network(x, 3), jnp.zeros(SHAPE)).dtype == jnp.float32


def test_bfloat16_is_near_float32_and_not_equal():
    x = jax.random.normal(jax.random.key(1), SHAPE)
    samplers: list[Any] = [make_sampler(dtype) for dtype in ("float32", "bfloat16")]
    exact, rough = (np.asarray(jax.jit(sampler.prior.network)(x, 300)) for sampler in samplers)
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.05


def test_an_unknown_precision_is_refused(unchecked):
    with pytest.raises(ValueError, match="float32, tf32 or bfloat16"):
        load_prior("faces-32", dtype="float16")  # pyright: ignore[reportArgumentType]
