"""A tiled prior is the prior: the same estimates wherever its receptive field fits, at the cost of the tiles alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Denoiser, load_prior
from jaxdiff.networks.convolution import conv2d
from jaxdiff.priors.tiles import Tiled, edge_weights, tile_corners, tiled
from jaxdiff.schedule import linear

SIDE = 96


def in_tiles(prior, shape) -> Tiled:
    """The prior in tiles, however small the image."""
    tile = tuple(min(SIDE, side + side % 2) for side in shape[:2])
    return Tiled(prior.at((*tile, 3)), jnp.asarray(tile_corners(shape[:2], SIDE)), shape)


@pytest.fixture(scope="module")
def photos():
    return load_prior("photos")


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(192, 130, 3), (97, 211, 3), (64, 240, 3)])
def test_the_estimate_is_that_of_the_whole_image(photos, shape) -> None:
    """FFDNet sees 24 pixels, the context of a tile; odd sides are continued as the network itself does."""
    x_t = jax.random.normal(jax.random.key(0), shape)
    parts = in_tiles(photos, shape)
    assert len(parts.corners) > 1
    whole = photos.at(shape).predict(x_t, 100)
    found = parts.predict(x_t, 100)
    np.testing.assert_allclose(found.before_clip, whole.before_clip, atol=2e-5)
    np.testing.assert_allclose(found.x0_hat, whole.x0_hat, atol=2e-5)


@pytest.mark.slow
def test_only_tiles_that_are_wanted_are_looked_at(photos) -> None:
    """The wanted pixels get the whole image's estimate; where no tile is, it is the noisy image itself."""
    shape, wanted = (256, 256, 3), np.zeros((256, 256), bool)
    wanted[30:34, 200:230] = True
    parts = tiled(photos, shape, SIDE, wanted)
    assert isinstance(parts, Tiled)
    assert len(parts.corners) < len(tile_corners(shape[:2], SIDE)) / 3
    x_t = jax.random.normal(jax.random.key(1), shape)
    found, whole = parts.predict(x_t, 50).before_clip, photos.at(shape).predict(x_t, 50).before_clip
    np.testing.assert_allclose(found[wanted], whole[wanted], atol=2e-5)
    np.testing.assert_allclose(found[200:, :40], x_t[200:, :40] / photos.schedule(50)[0], rtol=1e-6)


@pytest.mark.parametrize("size", [(96, 96), (97, 500), (1000, 130), (1, 1), (2, 333)])
def test_every_pixel_has_a_tile(size) -> None:
    """The weights of all tiles together are positive everywhere."""
    h, w = (length + length % 2 for length in size)
    total = np.zeros((h, w))
    tile = min(SIDE, h), min(SIDE, w)
    for row, column in tile_corners(size, SIDE).tolist():
        weights = np.outer(edge_weights(tile[0], row, h), edge_weights(tile[1], column, w))
        total[row : row + tile[0], column : column + tile[1]] += weights
    assert total.min() > 0


def test_small_images_need_no_tiles(photos) -> None:
    """They are the prior itself."""
    assert not isinstance(tiled(photos, (60, 50, 3), SIDE), Tiled)


@pytest.mark.parametrize("side", [97, 64])
def test_tiles_without_room_are_refused(photos, side) -> None:
    """Odd ones, and those that are all context."""
    with pytest.raises(ValueError, match="side"):
        tiled(photos, (500, 500, 3), side)


@pytest.mark.slow
def test_gradients_flow_through_tiles() -> None:
    """Rules with a gradient work: it is that of the whole image.

    Of a smooth network: a ReLU whose input is zero up to rounding is open in one program and shut in the other.
    """
    kernel = 0.1 * jax.random.normal(jax.random.key(3), (7, 7, 3, 3))
    network = lambda x_t, t: jnp.tanh(conv2d(x_t[None], kernel)[0])
    prior = Denoiser(network, linear(), (SIDE, SIDE, 3), target="x0", variance="fixed_small", any_size=True)
    shape = (128, 100, 3)
    x_t = jax.random.normal(jax.random.key(2), shape)
    total = lambda prior: jax.grad(lambda x: jnp.sum(prior.predict(x, 80).before_clip ** 2))(x_t)
    whole = total(prior.at(shape))
    assert np.abs(whole).mean() > 0.1
    np.testing.assert_allclose(total(in_tiles(prior, shape)), whole, atol=1e-5)
