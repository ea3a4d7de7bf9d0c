"""The UNet with RMS norms: what tests against its original do not see."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convert_weights.formats.denoising_diffusion import from_denoising_diffusion
from jaxdiff.networks.rms_unet import RMSNorm, RMSUNet, RMSUNetConfig
from jaxdiff.priors.storage import with_parameters
from tests.convert_weights.test_denoising_diffusion import SMALL, draw


def make(remat: bool = False) -> RMSUNet:
    weights = from_denoising_diffusion(draw(SMALL), SMALL)
    return with_parameters(nnx.eval_shape(lambda: RMSUNet(SMALL, remat=remat, rngs=nnx.Rngs(0))), weights)


@pytest.mark.thorough
def test_several_images_at_once_are_each_alone_and_rematerialization_changes_nothing() -> None:
    x, times = jax.random.normal(jax.random.key(0), (2, 6, 4, 3)), jnp.array([3, 700])
    together = jax.jit(jax.value_and_grad(lambda x, network: (network.batch(x, times) ** 2).sum()))
    alone = jax.jit(jax.value_and_grad(lambda x, network: (jax.vmap(network)(x, times) ** 2).sum()))
    (value, gradient), (other, slope) = alone(x, make()), together(x, make(remat=True))
    np.testing.assert_allclose(other, value, rtol=1e-4)
    np.testing.assert_allclose(slope, gradient, atol=1e-4 * float(jnp.abs(gradient).max()))


def test_a_pixel_of_zeros_has_a_norm_and_a_gradient() -> None:
    norm = RMSNorm(4)
    np.testing.assert_allclose(norm(jnp.array([1.0, 1.0, 1.0, 1.0])), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(norm(jnp.zeros(4)), 0)
    assert np.isfinite(jax.grad(lambda x: norm(x).sum())(jnp.zeros(4))).all()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"channel_mult": ()}, "of the same levels"),
        ({"full_attention": (True,)}, "of the same levels"),
        ({"image_size": 15}, "a multiple of 2, got 15"),
        ({"channels": 7}, "even and at least 4"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(changes, match) -> None:
    with pytest.raises(ValueError, match=match):
        replace(SMALL, **changes)


def test_an_image_that_does_not_fit_the_levels_is_refused() -> None:
    assert RMSUNetConfig(16, 8, (1, 2, 2), (False,) * 3, 8).size_factor == 4
    with pytest.raises(ValueError, match=r"multiples of 2, got \(5, 4, 3\)"):
        jax.eval_shape(lambda network: network(jnp.zeros((5, 4, 3)), 0), make())
