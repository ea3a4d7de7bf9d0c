"""Downsampling: equal to Pillow's at many sizes and factors, inverted exactly, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdiff.operators import Bicubic, BlockMean, pinv
from tests.operators.conftest import reduced

SIZES = [((24, 36), 3), ((32, 20), 4), ((14, 6), 2), ((5, 7), 1), ((4, 4), 4), ((3, 33), 3), ((16, 40), 8)]
METHODS = {"mean": (BlockMean, Image.Resampling.BOX), "bicubic": (Bicubic, Image.Resampling.BICUBIC)}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize(("sides", "factor"), SIZES)
def test_pictures_become_pillows(method, sides, factor):
    make, pillows = method
    x = np.random.default_rng(0).normal(size=(*sides, 3)).astype(np.float32)
    y = jax.jit(make(factor))(x)
    np.testing.assert_allclose(y, reduced(x, factor, pillows), atol=2e-6)
    np.testing.assert_allclose(make(factor)(make(factor).pinv(y)), y, atol=1e-5)


def test_the_mirror_counts_at_the_border_only():
    x = np.random.default_rng(1).normal(size=(32, 40, 3)).astype(np.float32)
    cut, mirrored = Bicubic(4)(jnp.asarray(x)), Bicubic(4, "mirror")(jnp.asarray(x))
    np.testing.assert_allclose(cut[2:-2, 2:-2], mirrored[2:-2, 2:-2], atol=1e-6)
    np.testing.assert_allclose(mirrored, reduced(x, 4, Image.Resampling.BICUBIC, margin=2), atol=2e-6)
    assert float(jnp.abs(cut - mirrored).max()) > 1e-2


@pytest.mark.parametrize("make", [BlockMean, Bicubic])
def test_a_constant_picture_stays_one(make):
    y = make(3)(jnp.full((9, 6, 1), 7.0))
    assert y.shape == (3, 2, 1)
    np.testing.assert_allclose(y, 7.0, rtol=1e-6)


@pytest.mark.parametrize("make", [BlockMean, Bicubic])
def test_conjugate_gradients_find_the_closed_form(make):
    x = jax.random.normal(jax.random.key(0), (32, 24, 3))
    y = make(4)(x)
    np.testing.assert_allclose(pinv(make(4), x, ridge=1e-7)(y), make(4).pinv(y), atol=1e-4)


@pytest.mark.parametrize("make", [BlockMean, Bicubic])
def test_bad_factors_are_refused(make):
    with pytest.raises(ValueError, match="at least 1"):
        make(0)
    for function in (make(4), lambda x: make(4).singular_values(x.shape)):
        with pytest.raises(ValueError, match="divide both sides of an image of 8x6"):
            function(jnp.zeros((8, 6, 3)))


def test_an_unknown_border_is_refused():
    with pytest.raises(ValueError, match="border"):
        Bicubic(2, "wrap")
