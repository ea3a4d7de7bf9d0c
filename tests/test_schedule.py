"""Schedules and denoisers against float64 formulas and published constants."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Denoiser, time_grid
from jaxdiff.priors.denoiser import Prediction
from jaxdiff.pytree import pytree, static
from jaxdiff.samplers.base import ancestral_step
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
def test_bad_betas_are_refused(betas):
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


def exact_network(target, x0):
    """A network that knows the answer."""

    def network(x_t, t):
        alpha_t, sigma_t = linear()(t)
        eps = (x_t - alpha_t * x0) / sigma_t
        return {"epsilon": eps, "x0": x0, "v": alpha_t * eps - sigma_t * x0}[target]

    return jax.tree_util.Partial(network)


@pytest.mark.parametrize("t", [0, 10, 300, 900])
@pytest.mark.parametrize("target", ["epsilon", "x0", "v"])
def test_every_target_gives_the_same_estimate(target, t):
    x0 = jnp.linspace(-0.9, 0.9, 12).reshape(2, 2, 3)
    denoiser = Denoiser(exact_network(target, x0), linear(), (2, 2, 3), target=target)
    x_t = 0.7 * jax.random.normal(jax.random.key(0), (2, 2, 3))
    np.testing.assert_allclose(denoiser.predict(x_t, t).x0_hat, x0, atol=2e-5)


def test_clip_bounds_the_estimate():
    x0 = jnp.full((2, 2, 3), 3.0)
    denoiser = Denoiser(exact_network("x0", x0), linear(), (2, 2, 3), target="x0")
    assert (denoiser.predict(x0, 5).x0_hat == 1).all()
    assert (dataclasses.replace(denoiser, clip=False).predict(x0, 5).x0_hat == 3).all()


@pytest.mark.parametrize(("t", "s"), [(999, 998), (300, 299), (1, 0), (500, 400)])
@pytest.mark.parametrize("variance", ["learned_range", "fixed_small", "fixed_large"])
def test_ancestral_step_has_the_reference_mean_and_variance(variance, t, s):
    """Float64 restatement of guided-diffusion's q_posterior and learned-range variance, with respacing."""
    raw = jnp.array([-1.0, 0.5, 1.2])  # not clamped in the reference either
    network = jax.tree_util.Partial(lambda x_t, t: jnp.concatenate([0.3 * x_t, jnp.broadcast_to(raw, x_t.shape)], -1))
    if variance != "learned_range":
        network = jax.tree_util.Partial(lambda x_t, t: 0.3 * x_t)
    denoiser = Denoiser(network, linear(), (1, 1, 3), target="x0", variance=variance)
    x_t = jnp.array([[[0.2, -1.1, 0.8]]])
    prediction = denoiser.predict(x_t, t)
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = jax.vmap(lambda key: ancestral_step(denoiser.schedule, key, x_t, prediction, t, s))(keys)
    noise = jax.vmap(lambda key: jax.random.normal(key, x_t.shape))(keys)

    a_t, a_s = ALPHA_BAR[t], ALPHA_BAR[s]
    beta = 1 - a_t / a_s
    small = beta * (1 - a_s) / (1 - a_t)
    mean = beta * np.sqrt(a_s) / (1 - a_t) * (0.3 * np.asarray(x_t, np.float64))
    mean += (1 - a_s) * np.sqrt(a_t / a_s) / (1 - a_t) * np.asarray(x_t, np.float64)
    fraction = {"learned_range": (np.asarray(raw) + 1) / 2, "fixed_small": 0.0, "fixed_large": 1.0}[variance]
    std = np.exp((fraction * np.log(beta) + (1 - fraction) * np.log(small)) / 2)
    np.testing.assert_allclose(draws - std * noise, np.broadcast_to(mean, draws.shape), atol=2e-5)


def test_last_step_adds_no_noise():
    x_t = jnp.ones((1, 1, 3))
    for fraction in (None, jnp.ones(())):
        steps = [
            ancestral_step(linear(), jax.random.key(i), x_t, Prediction(0.5 * x_t, fraction), 0, -1) for i in (0, 1)
        ]
        np.testing.assert_array_equal(steps[0], steps[1])
        np.testing.assert_allclose(steps[0], 0.5, atol=1e-6)


def test_bad_denoisers_are_refused():
    with pytest.raises(ValueError, match="target"):
        Denoiser(exact_network("x0", 0), linear(), (2, 2, 3), target="noise")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="variance"):
        Denoiser(exact_network("x0", 0), linear(), (2, 2, 3), variance="large")  # pyright: ignore[reportArgumentType]


@pytree
class Point:
    x: float
    name: str = static(default="a")

    def __post_init__(self):
        if self.x < 0:
            raise ValueError("negative")


def test_pytree_checks_at_construction_only():
    with pytest.raises(ValueError, match="negative"):
        Point(-1.0)
    moved = jax.tree.map(lambda x: -x, Point(1.0, "b"))
    assert (moved.x, moved.name) == (-1.0, "b")
    assert jax.tree.structure(Point(1.0, "a")) != jax.tree.structure(Point(1.0, "b"))
    assert jax.jit(lambda p: p.x * 2)(Point(3.0)) == 6
    with pytest.raises(dataclasses.FrozenInstanceError):
        moved.x = 2.0
