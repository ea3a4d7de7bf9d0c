"""A prior of two experts asks one of them; a padded prior takes any size; a denoiser by its noise level is a prior."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDPM, Denoiser, GaussianPrior
from jaxdiff.priors.denoiser import Prior
from jaxdiff.priors.gaussian import Diagonal
from jaxdiff.priors.noise_level import ByNoiseLevel
from jaxdiff.priors.split import PaddedPrior, SplitPrior
from jaxdiff.samplers.base import sample
from jaxdiff.schedule import cosine, linear
from tests.conftest import SHAPE, network_prior

X_T = jax.random.normal(jax.random.key(2), SHAPE)


def scaled(by: float) -> Denoiser:
    """A prior whose estimate is a multiple of `x_t`."""
    return Denoiser(lambda x_t, t: by * x_t, linear(), SHAPE, target="x0")


def counted(calls: list[str], name: str) -> Denoiser:
    """A prior that notes its calls."""

    def network(x_t, t):
        jax.debug.callback(lambda _: calls.append(name), x_t.mean())
        return 0.9 * x_t

    return Denoiser(network, linear(), SHAPE, target="x0")


@pytest.mark.parametrize(("t", "by"), [(0, 0.5), (109, 0.5), (110, 3.0), (999, 3.0)])
def test_low_noise_levels_are_one_experts_and_high_ones_the_others(t, by):
    prior = SplitPrior(scaled(0.5), scaled(3.0), 110)
    assert isinstance(prior, Prior)
    said = jax.jit(prior.predict)(X_T, t)
    np.testing.assert_array_equal(said.x0_hat, jnp.clip(by * X_T, -1, 1))
    np.testing.assert_array_equal(said.before_clip, by * X_T)
    np.testing.assert_array_equal(said.before_guidance, said.x0_hat)
    np.testing.assert_array_equal(prior.bound(9 * X_T), jnp.clip(9 * X_T, -1, 1))
    slope = jax.grad(lambda x_t: prior.predict(x_t, t).before_clip.sum())(X_T)
    np.testing.assert_allclose(slope, by)


@pytest.mark.thorough
def test_experts_may_differ_in_what_they_predict_besides():
    learned = network_prior()
    prior = SplitPrior(scaled(0.5), learned, 110)
    cases: Any = ((5, 0.0), (500, learned.predict(X_T, 500).variance_fraction))
    for t, wanted in cases:
        found: Any = prior.predict(X_T, t).variance_fraction
        np.testing.assert_allclose(found, jnp.broadcast_to(wanted, SHAPE), atol=1e-6)


def test_only_one_network_runs_for_many_seeds():
    calls: list[str] = []
    prior = SplitPrior(counted(calls, "low"), counted(calls, "high"), 110)
    times = np.array([900, 500, 110, 50, 0, -1])
    keys = jax.random.split(jax.random.key(0), 4)
    draw = jax.jit(jax.vmap(lambda key: sample(DDPM(prior), key, times)))
    jax.block_until_ready(draw(keys))
    jax.effects_barrier()
    assert (calls.count("high"), calls.count("low")) == (3 * 4, 2 * 4)
    program = jax.jit(jax.vmap(prior.predict, (0, None))).lower(jnp.stack([X_T] * 4), 7).compile().as_text()
    assert program is not None
    assert "conditional(" in program


def test_another_size_and_mismatched_experts():
    prior = SplitPrior(scaled(0.5), scaled(3.0), 110).at((4, 12, 3))
    assert prior.image_shape == prior.low.image_shape == prior.high.image_shape == (4, 12, 3)
    with pytest.raises(ValueError, match=r"`low` has images \(8, 6, 3\), `high` has \(4, 12, 3\)"):
        SplitPrior(scaled(0.5), prior.high, 110)
    short = Denoiser(lambda x_t, t: x_t, linear(100), SHAPE, target="x0")
    with pytest.raises(ValueError, match="a schedule of 1000 times, `high` one of 100"):
        SplitPrior(scaled(0.5), short, 110)
    other = replace(scaled(0.5), schedule=cosine())
    with pytest.raises(ValueError, match="`low` and `high` have different noise schedules"):
        SplitPrior(scaled(0.5), other, 110)
    # What is traced is not known.
    make = lambda schedule: SplitPrior(scaled(0.5), replace(other, schedule=schedule), 110).bound(X_T)
    assert jax.jit(make)(cosine()).shape == SHAPE


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 13, 3), (8, 8, 3)])
def test_a_padded_prior_takes_any_size(shape):
    asked: list[tuple[int, ...]] = []

    def network(x_t, t):
        asked.append(x_t.shape)
        return x_t + x_t.mean()

    inner = Denoiser(network, linear(), (8, 8, 3), target="x0", clip=False)
    prior = PaddedPrior(inner, 8, (8, 8, 3)).at(shape)
    assert isinstance(prior, Prior)
    assert prior.image_shape == shape
    x_t = jax.random.normal(jax.random.key(0), shape)
    said = prior.predict(x_t, 300)
    h, w = (-(-side // 8) * 8 for side in shape[:2])
    assert set(asked) == {(h, w, 3)}
    whole = np.pad(x_t, [(0, h - shape[0]), (0, w - shape[1]), (0, 0)], "symmetric")
    np.testing.assert_allclose(said.x0_hat, x_t + whole.mean(), atol=1e-5)
    assert said.before_clip.shape == shape


@pytest.mark.parametrize("t", [0, 60, 150])
def test_a_denoiser_by_noise_level_is_the_prior_of_its_images(t):
    """The Wiener filter of independent pixels, in units of [0, 1], is the Gaussian prior in units of [-1, 1]."""
    mean, std = 0.2, 0.3
    wiener = lambda image, sigma: (mean + 1) / 2 + (image - (mean + 1) / 2) / (1 + (2 * sigma / std) ** 2)
    prior = Denoiser(ByNoiseLevel(wiener, linear(), 75 / 255), linear(), SHAPE, target="x0", clip=False)
    exact = GaussianPrior(jnp.full(SHAPE, mean), Diagonal(jnp.full(SHAPE, std**2)), linear())
    np.testing.assert_allclose(prior.predict(X_T, t).x0_hat, exact.predict(X_T, t).x0_hat, atol=1e-5)


def test_a_noise_level_beyond_the_trained_range_is_cut_to_it():
    level = Denoiser(
        ByNoiseLevel(lambda image, sigma: jnp.full(SHAPE, sigma), linear(), 0.25), linear(), SHAPE, target="x0"
    )
    np.testing.assert_allclose(level.predict(X_T, 900).x0_hat, 2 * 0.25 - 1)
    alpha_t, sigma_t = linear()(50)
    np.testing.assert_allclose(level.predict(X_T, 50).x0_hat, sigma_t / alpha_t - 1, rtol=1e-6)
