"""A sampler that shows which keys it was given, and one chain of any sampler."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from jaxdiff import sample
from jaxdiff.priors.denoiser import Prediction
from jaxdiff.pytree import pytree
from jaxdiff.samplers.base import visit_numbers
from tests.conftest import SHAPE, TIMES


@jax.jit
def run(sampler: Any, key: PRNGKeyArray, times: Any, visits: Any) -> Array:
    """Returns the image of one chain."""
    return sampler.image(sample(sampler, key, times, visits=visits)[0])


def image_of(sampler: Any, key: PRNGKeyArray, times: Any = TIMES) -> Array:
    """Returns the image of one chain; all times of as many steps share a program."""
    return run(sampler, key, times, visit_numbers(times))


@pytree
class Bits:
    """A sampler whose image holds the random bits of the keys of its start and of its steps, one below the other."""

    start: Array

    def init(self, key: PRNGKeyArray, t: Any) -> Array:
        return self._append(self.start, key)

    def step(self, key: PRNGKeyArray, drawn: Array, t: Any, s: Any) -> tuple[Array, Prediction]:
        return self._append(drawn, key), Prediction(jnp.zeros(SHAPE))

    def image(self, drawn: Array) -> Array:
        return drawn.reshape(-1, *SHAPE[1:])

    def _append(self, drawn: Array, key: PRNGKeyArray) -> Array:
        return jnp.concatenate([drawn[1:], bits_of(key)[None]])


def bits_of(key: PRNGKeyArray) -> Array:
    """Random bits as numbers that no program rounds; a normal number's last digit depends on the program."""
    return jax.random.bits(key, SHAPE, jnp.uint16).astype(jnp.float32)


def bit_sampler() -> Bits:
    """For a chain of as many steps as `TIMES` has."""
    return Bits(jnp.zeros((len(TIMES), *SHAPE)))
