"""Networks as priors, wrapped or not; and the laws of every prior."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Denoiser
from jaxdiff.priors.denoiser import Prior
from jaxdiff.schedule import linear
from tests.conftest import SHAPE, Passed, network_prior
from tests.priors.conftest import PRIORS

quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
predict = quickly(lambda prior, x_t, t: prior.predict(x_t, t))
predict_many = quickly(lambda prior, x_t, t: jax.vmap(prior.predict, (0, None))(x_t, t).x0_hat)
X_T = jax.random.normal(jax.random.key(2), SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_predicts_finite_images_and_keeps_the_protocol(name):
    prior = PRIORS[name]()
    assert isinstance(prior, Prior)
    assert prior.image_shape == SHAPE
    for t in (0, 400, 999):
        said = predict(prior, X_T, t)
        for image in (said.x0_hat, said.before_clip, said.before_guidance):
            assert image.shape == SHAPE
            assert jnp.isfinite(image).all()
        np.testing.assert_array_equal(prior.bound(said.x0_hat), said.x0_hat)
    assert prior.at(SHAPE).image_shape == SHAPE
    together = predict_many(prior, jnp.stack([X_T, -X_T]), 400)
    alone = [predict(prior, x_t, 400).x0_hat for x_t in (X_T, -X_T)]
    np.testing.assert_allclose(together, jnp.stack(alone), atol=2e-4)


def test_closed_forms_know_one_size_and_networks_any():
    larger = Passed(network_prior()).at((12, 16, 3))
    assert larger.image_shape == (12, 16, 3)
    assert jax.eval_shape(larger.predict, jnp.zeros((12, 16, 3)), 3).x0_hat.shape == (12, 16, 3)
    for name in ("diagonal", "mixture", "guided"):
        with pytest.raises(ValueError, match="knows images of one size"):
            PRIORS[name]().at((12, 16, 3))


def test_a_network_takes_its_label():
    network = lambda x_t, t, label: label * x_t
    denoiser = Denoiser(network, linear(), SHAPE, target="x0", clip=False, label=3)
    np.testing.assert_allclose(denoiser.predict(X_T, 5).x0_hat, 3 * X_T)


def exact_network(target: str, x0: Any) -> Any:
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


@pytest.mark.usefixtures("unchecked")
def test_bad_denoisers_are_refused():
    with pytest.raises(ValueError, match="target"):
        Denoiser(exact_network("x0", 0), linear(), (2, 2, 3), target="noise")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="variance"):
        Denoiser(exact_network("x0", 0), linear(), (2, 2, 3), variance="large")  # pyright: ignore[reportArgumentType]
