"""The table of priors, on which every law of priors runs, and the closed forms among them written down again."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdiff import MMPS, GaussianPrior, MixturePrior
from jaxdiff.priors.gaussian import Dense, natural_spectrum
from jaxdiff.schedule import linear
from tests import reference
from tests.conftest import SHAPE, Passed, gaussian_prior, mean_vectors, network_prior, small_problem, variance_map


class Moments(NamedTuple):
    """A prior with a closed form, restated: weights, means and covariance matrices of its components, in float64."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The mean of the whole."""
        return self.weights @ self.means

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of the whole."""
        apart = self.means - self.mean
        return np.tensordot(self.weights, self.covariances, 1) + (self.weights[:, None] * apart).T @ apart


def _diagonal() -> Moments:
    return Moments(np.ones(1), 0.6 * mean_vectors(1), np.diag(np.asarray(variance_map(), np.float64).ravel())[None])


def dense_matrix(seed: int = 0) -> np.ndarray:
    """A covariance without structure, with eigenvalues from 0.01 to 1."""
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(144, 144)))[0]
    return (rotation * np.geomspace(0.01, 1, 144)) @ rotation.T


MOMENTS: dict[str, Callable[[], Moments]] = {
    "diagonal": _diagonal,
    "dense": lambda: Moments(np.ones(1), mean_vectors(1), dense_matrix()[None]),
    "stationary": lambda: Moments(np.ones(1), mean_vectors(1), reference.natural_covariance(SHAPE)[None]),
    "mixture": lambda: Moments(
        np.array([1, 2, 3]) / 6, mean_vectors(3), np.stack([reference.natural_covariance(SHAPE, 0.1)] * 3)
    ),
    "mixture of dense": lambda: Moments(
        np.array([0.5, 0.5]), mean_vectors(2), np.stack([dense_matrix(seed) for seed in range(2)])
    ),
}
"""The closed forms among `PRIORS`, written down without the library."""


def _image(vector: np.ndarray) -> Array:
    return jnp.asarray(vector.reshape(SHAPE), jnp.float32)


PRIORS: dict[str, Callable[[], Any]] = {
    "diagonal": gaussian_prior,
    "dense": lambda: GaussianPrior(_image(mean_vectors(1)), Dense(dense_matrix()), linear()),
    "stationary": lambda: GaussianPrior(_image(mean_vectors(1)), natural_spectrum(SHAPE), linear()),
    "mixture": lambda: MixturePrior(
        (1.0, 2.0, 3.0), [GaussianPrior(_image(m), natural_spectrum(SHAPE, 0.1), linear()) for m in mean_vectors(3)]
    ),
    "mixture of dense": lambda: MixturePrior(
        (0.5, 0.5), [GaussianPrior(_image(m), Dense(dense_matrix(k)), linear()) for k, m in enumerate(mean_vectors(2))]
    ),
    "network": network_prior,
    "wrapped": lambda: Passed(network_prior()),
    "guided": lambda: MMPS(*small_problem()),
}


@cache
def closed_form(name: str) -> tuple[Any, Moments]:
    """A prior and its moments."""
    return PRIORS[name](), MOMENTS[name]()
