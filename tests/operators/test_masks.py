"""Masks of brush strokes: how many there are, how wide, and that they do not depend on the size of the picture."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, label

from jaxdiff.operators import FreeFormMask


def hidden(seed: int, shape: tuple[int, int, int] = (96, 64, 3), *brush: Any) -> np.ndarray:
    return np.asarray(FreeFormMask(jax.random.key(seed), shape, *brush).mask)[..., 0] == 0


@pytest.mark.parametrize(("strokes", "width"), [(1, 0.1), (3, 0.1), (3, 0.2)])
def test_strokes_are_connected_and_as_wide_as_the_brush(strokes, width):
    drawn = hidden(1, (96, 64, 3), strokes, width)
    parts: Any = label(drawn, np.ones((3, 3)))
    assert 1 <= parts[1] <= strokes
    # From its middle line to its edge; more where a stroke turns back on itself or crosses another.
    assert np.asarray(distance_transform_edt(drawn)).max() >= width * 64 / 2 - 1


def test_a_key_has_the_same_strokes_at_every_size():
    small, large, other = hidden(0), hidden(0, (192, 128, 3)), hidden(1)
    means = large.reshape(96, 2, 64, 2).mean((1, 3))
    assert np.abs(means - small)[(means == 0) | (means == 1)].mean() < 0.02
    assert (small != other).mean() > 0.1


def test_about_a_fifth_is_hidden_by_default():
    shares = [hidden(seed, (32, 32, 3)).mean() for seed in range(20)]
    assert 0.15 < np.mean(shares) < 0.25
    assert min(shares) > 0.05
    assert max(shares) < 0.35


def test_it_is_a_mask():
    operator = FreeFormMask(jax.random.key(0), (16, 16, 3))
    y = operator(jnp.ones((16, 16, 3)))
    np.testing.assert_array_equal(y, operator.observed(y))


@pytest.mark.parametrize(("strokes", "width"), [(0, 0.1), (2, 0.0), (2, 0.6), (2, float("nan"))])
def test_bad_brushes_are_refused(strokes, width):
    with pytest.raises(ValueError, match="strokes"):
        FreeFormMask(jax.random.key(0), (16, 16, 3), strokes, width)
