"""Masks of frequencies: which ones they measure, and the posterior that follows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.operators import FourierMask, cartesian_lines, radial_lines

KEY = jax.random.key(0)


def test_radial_lines_are_those_drawn_by_hand():
    horizontal, both = (np.asarray(radial_lines((6, 5, 3), lines))[..., 0] for lines in (1, 2))
    row, column = np.zeros((6, 5)), np.zeros((6, 5))
    row[0], column[:, 0] = 1, 1
    np.testing.assert_array_equal(horizontal, row)
    np.testing.assert_array_equal(both, np.maximum(row, column))
    # At 45 degrees the neighbours of the diagonal are 0.71 away from it.
    diagonal = np.fft.fftshift(radial_lines((7, 7, 1), 4)[..., 0]) - np.fft.fftshift(radial_lines((7, 7, 1), 2)[..., 0])
    np.testing.assert_array_equal(
        diagonal + np.diag(np.arange(7) == 3), np.eye(7) + np.eye(7)[::-1] - np.diag(np.arange(7) == 3)
    )


@pytest.mark.parametrize(
    ("acceleration", "centre", "count", "lowest"), [(4, 0.08, 12, 4), (8, 0.0, 6, 0), (1, 0.1, 48, 5)]
)
def test_cartesian_lines_are_so_many_columns_with_the_lowest_among_them(acceleration, centre, count, lowest):
    mask = np.asarray(cartesian_lines(KEY, (6, 48, 3), acceleration, centre))[..., 0]
    assert (mask == mask[0]).all()
    assert mask[0].sum() == count
    assert mask[0][np.argsort(np.minimum(np.arange(48), 48 - np.arange(48)))[:lowest]].all()
    other = np.asarray(cartesian_lines(jax.random.key(1), (6, 48, 3), acceleration, centre))[..., 0]
    assert (other != mask).any() == (acceleration > 1)


def test_a_pair_that_is_measured_twice_has_half_the_noise():
    """The noise of the spectrum of the data is white, with the variance of a part of an entry of `y`."""
    operator = FourierMask(np.ones((16, 12, 1), np.float32))
    noise = jax.random.normal(KEY, (50, 16, 12, 3), jnp.complex64) * 2**0.5
    images = jax.vmap(lambda y: operator.from_spectrum(operator.data_spectrum(y)))(noise)
    assert abs(float(jnp.var(images)) - 1) < 4.5 * (2 / images.size) ** 0.5


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FourierMask(np.zeros((4, 4, 1), np.float32)), "hides everything"),
        (lambda: FourierMask(np.ones((4, 4, 1), np.float32))(jnp.zeros((4, 6, 3))), "broadcast"),
        (lambda: radial_lines((8, 8, 3), 0), "lines"),
        (lambda: cartesian_lines(KEY, (8, 8, 3), 0.5), "acceleration"),
        (lambda: cartesian_lines(KEY, (8, 8, 3), 4.0, 0.3), "centre"),
    ],
)
def test_what_measures_nothing_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
