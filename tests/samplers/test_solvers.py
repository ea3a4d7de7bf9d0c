"""Solvers of the probability flow: their order on a Gaussian prior, whose flow is known, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDIM, MMPS, DPMSolver, Heun, sample
from jaxdiff.priors.denoiser import Prediction
from jaxdiff.pytree import pytree
from jaxdiff.samplers import StartAt
from tests.conftest import SHAPE, Passed, gaussian_prior, small_problem
from tests.samplers.conftest import image_of

KEY = jax.random.key(0)
X_T = jax.random.normal(jax.random.key(2), SHAPE)
ALPHA_BAR = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)


@jax.jit
def follow(sampler, times):
    return sampler.image(sample(sampler, KEY, times, state=sampler.from_image(X_T))[0])


def flow(t: int, s: int) -> np.ndarray:
    """Where the flow takes `X_T`: every pixel keeps its place in standard deviations."""
    prior = gaussian_prior()
    mean, variance = (np.asarray(a, np.float64) for a in (prior.mean, prior.variance))
    std = [np.sqrt(ALPHA_BAR[i] * variance + 1 - ALPHA_BAR[i]) for i in (t, s)]
    return ALPHA_BAR[s] ** 0.5 * mean + std[1] / std[0] * (np.asarray(X_T) - ALPHA_BAR[t] ** 0.5 * mean)


@pytest.mark.parametrize(("solver", "order"), [(DDIM, 1), (DPMSolver, 2), (Heun, 2)])
def test_half_as_long_steps_have_a_quarter_of_the_error(solver, order):
    """Of first order half of it, as DDIM shows."""
    errors = []
    for steps in (20, 40):
        times = np.linspace(900, 100, steps + 1).astype(int)
        errors.append(np.sqrt(np.mean((np.asarray(follow(solver(gaussian_prior()), times)) - flow(900, 100)) ** 2)))
    assert 0.8 * 2**order < errors[0] / errors[1] < 1.3 * 2**order
    assert errors[1] > 1e-5  # far from rounding


@pytest.mark.parametrize("solver", [DPMSolver, Heun])
def test_the_last_step_gives_the_estimate_and_one_step_is_that_of_ddim(solver):
    prior = gaussian_prior()
    sampler, state = solver(prior), solver(prior).from_image(X_T)
    after, prediction = sampler.step(KEY, state, 300, -1)
    np.testing.assert_allclose(sampler.image(after), prediction.x0_hat, atol=1e-6)
    short = sampler.image(sampler.step(KEY, state, 300, 299)[0])
    euler = DDIM(prior).step(KEY, X_T, 300, 299)[0]
    # Heun's correction of so short a step is of second order.
    np.testing.assert_allclose(short, euler, atol=1e-6 if solver is DPMSolver else 1e-4)


def test_a_multistep_is_the_published_formula():
    """Algorithm 2 in numbers of a flow that is not even: `e^-h - 1`, `r = h' / h`."""
    solver, times = DPMSolver(gaussian_prior()), (700, 500, 420)
    first, said = solver.step(KEY, solver.from_image(X_T), *times[:2])
    second, then = solver.step(KEY, first, *times[1:])
    alpha, sigma = (np.sqrt([f(ALPHA_BAR[t]) for t in times]) for f in (lambda a: a, lambda a: 1 - a))
    h = np.diff(np.log(alpha / sigma))
    r = h[0] / h[1]
    d = (1 + 1 / (2 * r)) * np.asarray(then.x0_hat, np.float64) - 1 / (2 * r) * np.asarray(said.x0_hat, np.float64)
    wanted = sigma[2] / sigma[1] * np.asarray(first.x_t) - alpha[2] * np.expm1(-h[1]) * d
    np.testing.assert_allclose(second.x_t, wanted, atol=2e-6)


def test_what_lies_before_a_rise_is_forgotten():
    solver = DPMSolver(gaussian_prior())
    state, _ = solver.step(KEY, solver.from_image(X_T), 700, 500)
    risen, _ = solver.step(KEY, state, 500, 600)
    again, anew = (solver.step(KEY, one, 600, 400)[0].x_t for one in (risen, solver.from_image(risen.x_t)))
    np.testing.assert_array_equal(again, anew)


@pytest.mark.thorough
def test_a_chain_may_start_from_an_estimate():
    """The state is the solver's own."""
    prior, measurement = small_problem()
    times = np.array([300, 200, 100])
    started = StartAt(DPMSolver(prior), measurement)
    found = image_of(started, KEY, times)
    start = started.init(jax.random.fold_in(KEY, jnp.int32(-1)), 300)
    wanted = DPMSolver(prior).image(sample(DPMSolver(prior), KEY, times, state=start)[0])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("solver", "calls"), [(DPMSolver, 11), (Heun, 21)])
def test_calls_of_the_network(solver, calls):
    """One a step, or two but for the last; a guided prior counts each."""
    counted = []

    @pytree
    class Counted(Passed):
        def predict(self, x_t, t) -> Prediction:
            jax.debug.callback(lambda t: counted.append(int(t)), t)
            return self.prior.predict(x_t, t)

    prior, measurement = small_problem()
    times = np.append(np.arange(10, -1, -1) * 90, -1)
    found = image_of(solver(MMPS(Counted(prior), measurement)), KEY, times)
    jax.effects_barrier()
    assert len(counted) == calls
    assert jnp.isfinite(found).all()
