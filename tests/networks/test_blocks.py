"""Blocks of pixels as channels, and the UNet on them without attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff.networks.blocks import depth_to_space, pad_to_multiple, space_to_depth
from jaxdiff.networks.layers import AttentionBlock
from jaxdiff.networks.unet import UNet, UNetConfig
from jaxdiff.priors.storage import with_parameters
from tests.conftest import random_weights

CONVOLUTIONAL = UNetConfig(16, 8, (1, 2), 1, (), out_channels=6, norm_groups=4, patch=2, middle_attention=False)


def build(config: UNetConfig) -> UNet:
    return with_parameters(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))), random_weights(config))


def test_blocks_hold_one_colour_row_by_row():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3).astype(np.float32)
    blocks = space_to_depth(jnp.asarray(x), 2)
    for c, dy, dx in np.ndindex(3, 2, 2):
        np.testing.assert_array_equal(blocks[..., 4 * c + 2 * dy + dx], x[:, dy::2, dx::2, c])
    np.testing.assert_array_equal(depth_to_space(blocks, 2), x)


@pytest.mark.parametrize(("shape", "padded"), [((5, 8, 3), (8, 8, 3)), ((1, 1, 3), (4, 4, 3)), ((4, 4, 3), (4, 4, 3))])
def test_padding_mirrors_below_and_right(shape, padded):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = pad_to_multiple(jnp.asarray(x), 4)
    assert found.shape == padded
    np.testing.assert_array_equal(
        found, np.pad(x, [(0, b - a) for a, b in zip(shape, padded, strict=True)], "symmetric")
    )


@pytest.mark.thorough
def test_patch_is_the_network_on_blocks():
    plain = UNetConfig(8, 8, (1, 2), 1, (), in_channels=12, out_channels=24, norm_groups=4, middle_attention=False)
    x = jax.random.normal(jax.random.key(0), (2, 12, 16, 3))
    t = jnp.array([3, 700])
    wanted = depth_to_space(build(plain).batch(space_to_depth(x, 2), t), 2)
    np.testing.assert_allclose(build(CONVOLUTIONAL).batch(x, t), wanted, atol=1e-6)


@pytest.mark.thorough
def test_the_switch_leaves_no_attention_and_old_configurations_mean_what_they_did():
    kinds = lambda config: [type(m) for _, m in nnx.iter_graph(build(config)) if isinstance(m, AttentionBlock)]
    assert len(kinds(CONVOLUTIONAL)) == 0
    assert len(kinds(UNetConfig(16, 8, (1, 2), 1, (), out_channels=3, norm_groups=4))) == 1
    assert len(kinds(UNetConfig(16, 8, (1, 2), 1, (8,), out_channels=3, norm_groups=4, patch=1))) == 4


@pytest.mark.thorough
def test_sizes_that_do_not_fit_are_refused():
    network = build(CONVOLUTIONAL)
    assert network(jnp.zeros((20, 4, 3)), 0).shape == (20, 4, 6)
    with pytest.raises(ValueError, match=r"multiples of 4, got \(6, 8, 3\)"):
        network(jnp.zeros((6, 8, 3)), 0)
    with pytest.raises(
        ValueError, match="`image_size` must be a multiple of 4 for 2 levels of blocks of 2 pixels, got 18"
    ):
        UNetConfig(18, 8, (1, 2), 1, (), norm_groups=4, patch=2)
