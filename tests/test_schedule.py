"""Schedules against float64 formulas and published constants."""

import numpy as np
import pytest

from jaxdiff import time_grid
from jaxdiff.schedule import cosine, from_betas, linear

BETAS = np.linspace(1e-4, 0.02, 1000)
ALPHA_BAR = np.append(np.cumprod(1 - BETAS), 1.0)


def test_linear_table_has_the_published_values():
    schedule = linear()
    published = {0: 0.9999, 300: 0.394011, 500: 0.0777967, 999: 4.03583e-05}
    # The constants have six digits, so that they are off by up to 5e-6 of themselves.
    for t, value in published.items():
        np.testing.assert_allclose(schedule.alpha_bar(t), value, rtol=5e-6)
    for t, ratio in {0: 0.0100005, 500: 3.44297, 999: 157.407}.items():
        alpha_t, sigma_t = schedule(t)
        np.testing.assert_allclose(sigma_t / alpha_t, ratio, rtol=5e-6)


@pytest.mark.parametrize("t", range(0, 1000, 37))
def test_float32_table_keeps_differences_exact(t):
    """`1 - alpha_bar` and the one-step beta, which float32 tables of alpha_bar lose near t = 0."""
    schedule = linear()
    np.testing.assert_allclose(schedule(t)[1] ** 2, 1 - ALPHA_BAR[t], rtol=1e-6)
    np.testing.assert_allclose(schedule.beta(t, t - 1), BETAS[t], rtol=5e-5)
    variance = BETAS[t] * (1 - ALPHA_BAR[t - 1]) / (1 - ALPHA_BAR[t])
    np.testing.assert_allclose(schedule.posterior_variance(t, t - 1), variance, rtol=1e-4, atol=1e-12)


def test_clean_image_is_time_minus_one():
    alpha, sigma = linear()(-1)
    assert (alpha, sigma) == (1, 0)


def test_cosine_follows_its_formula():
    t = np.arange(1000)
    f = lambda t: np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(cosine().alpha_bar(t[:900]), (f(t + 1) / f(0))[:900], rtol=1e-5)


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [0.5, 1.0], [np.nan], [[0.1]]])
def test_bad_betas_are_refused(betas, unchecked):
    with pytest.raises(ValueError, match="betas"):
        from_betas(np.array(betas))


def test_time_grid_is_guided_diffusions_respacing():
    """The reference keeps round(i * stride) for i = 0 ... n-1 with stride 999 / (n - 1)."""
    for n in (2, 25, 50, 100, 250, 1000):
        kept = {round(i * 999 / (n - 1)) for i in range(n)}
        assert time_grid(1000, n).tolist() == [*sorted(kept, reverse=True), -1]
    assert time_grid(1000, start=3).tolist() == [3, 2, 1, 0, -1]
    assert time_grid(1000, 1, 500).tolist() == [500, -1]


@pytest.mark.parametrize("arguments", [(1000, 0), (1000, 1001), (1000, 10, 1000), (1000, 10, -1), (1000, 5, 3)])
def test_bad_time_grids_are_refused(arguments):
    with pytest.raises(ValueError, match=r"`num_steps`|`start`"):
        time_grid(*arguments)
