"""Whole chains: those that draw from the posterior, and those that follow data of an operator that is not linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DAPS, PnPDM, sample_many, time_grid
from jaxdiff.runs.methods import make_run
from jaxdiff.samplers import annealed_times
from jaxdiff.schedule import linear
from tests.conftest import SIGMA_Y, compiled_well, gaussian_prior, of, small_problem
from tests.operators.conftest import Saturation

pytestmark = pytest.mark.thorough
KEYS = jax.random.split(jax.random.key(0), 300)


@pytest.mark.parametrize(
    ("make", "times", "seen", "hidden"),
    [
        (lambda *given: PnPDM(*given, prior_steps=40), annealed_times(linear(), 60, 10.0, SIGMA_Y / 4), 1.03, 0.95),
        # Langevin's steps of 0.1 have 1.05 of the variance. Hidden pixels are noised around an image that has already
        # been drawn, so that they spread more than they should.
        (DAPS, time_grid(1000, 60), 1.05, 1.3),
    ],
    ids=["pnp-dm", "daps"],
)
def test_samples_have_the_mean_and_the_variance_of_the_posterior(make, times, seen, hidden):
    prior, measurement = small_problem()
    with compiled_well():
        x = sample_many(make(prior, measurement), KEYS, times)
    gain = measurement.observed * prior.variance / (prior.variance + SIGMA_Y**2)
    mean, variance = prior.mean + gain * (measurement.y - prior.mean), (1 - gain) * prior.variance
    known, ratio = np.asarray(measurement.observed) > 0, np.asarray(x.var(0, ddof=1) / variance)
    # Of some 40 known and 100 hidden entries with 300 seeds each, the means of the ratios have errors of 0.013 and 0.008.
    assert ratio[known].mean() == pytest.approx(seen, abs=0.06)
    assert ratio[~known].mean() == pytest.approx(hidden, abs=0.1)
    z = np.asarray((x.mean(0) - mean) / jnp.sqrt(variance / len(KEYS)))
    assert np.sqrt(np.mean(z[~known] ** 2)) < 1.5


@pytest.mark.parametrize("method", ["mpgd", "dsg", "lgd", "daps", "red-diff", "fast-dips"])
def test_an_operator_that_is_not_linear_is_followed(method):
    """Samples miss the data by less than a third of what images of the prior do."""
    measurement = of(Saturation())
    misses = {}
    for name in ("sdedit", method):
        run = make_run(name, "inpaint", gaussian_prior(), measurement, 100)
        samples = sample_many(run.sampler, KEYS[:4], run.times)
        misses[name] = float(jax.vmap(measurement.residual_ratio)(samples).mean())
    assert misses[method] < misses["sdedit"] / 3, misses
