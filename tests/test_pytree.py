"""Frozen dataclasses as PyTrees."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import PRNGKeyArray

from jaxdiff import (
    DDPM,
    DPS,
    MMPS,
    Denoiser,
    DPSLikelihood,
    Measurement,
    MixturePrior,
    PoissonNoise,
    Prediction,
    measure,
    plan,
    sample,
    sample_many,
    sample_segments,
)
from jaxdiff.operators import Blur, BoxMask, CircularBlur, GaussianBlur, Identity, Mask, RandomMask
from jaxdiff.pytree import pytree, static
from jaxdiff.schedule import linear
from tests.conftest import NOISES, SAMPLERS, SHAPE, SIGMA_Y, TIMES, gaussian_prior, network_prior, small_problem
from tests.operators.conftest import COLOURED, OPERATORS, lopsided_kernel
from tests.priors.conftest import PRIORS


@pytree
class Keyed:
    key: PRNGKeyArray


@pytree
class Point:
    x: float
    name: str = static(default="a")

    def __post_init__(self):
        if self.x < 0:
            raise ValueError("negative")


def test_checks_at_construction_only():
    with pytest.raises(ValueError, match="negative"):
        Point(-1.0)
    moved = jax.tree.map(lambda x: -x, Point(1.0, "b"))
    assert (moved.x, moved.name) == (-1.0, "b")
    assert jax.tree.structure(Point(1.0, "a")) != jax.tree.structure(Point(1.0, "b"))
    assert jax.jit(lambda p: p.x * 2)(Point(3.0)) == 6
    with pytest.raises(dataclasses.FrozenInstanceError):
        moved.x = 2.0


def rows() -> dict[str, Callable[[], Any]]:
    """Every row of every table."""
    made = {f"sampler {name}": lambda name=name: SAMPLERS[name](*small_problem()) for name in SAMPLERS}
    made |= {f"operator {name}": row.make for name, row in OPERATORS.items()}
    return made | {f"noise {name}": make for name, make in NOISES.items()} | {f"prior {n}": PRIORS[n] for n in PRIORS}


@pytest.mark.slow
@pytest.mark.parametrize("make", rows().values(), ids=rows())
def test_copies_through_files_and_in_memory_are_equal(make):
    one = make()
    for again in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one), copy.copy(one)):
        assert again == one
        assert hash(again) == hash(one)
    assert one != 3


def test_the_shipped_prior_can_be_pickled_and_copied(faces):
    sampler = DPS(faces, Measurement(Identity(), jnp.zeros(faces.image_shape), SIGMA_Y), 0.5)
    for again in (pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)):
        assert jax.tree.structure(again) == jax.tree.structure(sampler)
        jax.tree.map(np.testing.assert_array_equal, again, sampler)


def test_equal_is_one_class_with_equal_numbers_and_traced_ones_equal_themselves_alone():
    assert Mask(np.ones((4, 4, 1), np.float32)) == Mask(jnp.ones((4, 4, 1)))
    assert Mask(np.ones((4, 4, 1), np.float32)) != Mask(np.ones((4, 3, 1), np.float32))
    assert Point(1.0, "a") != Point(1.0, "b")
    assert Point(jnp.float32(1)) == Point(1.0) != Point(2.0)  # pyright: ignore[reportArgumentType]
    assert Keyed(jax.random.key(0)) == Keyed(jax.random.key(0)) != Keyed(jax.random.key(1))

    @jax.jit
    def compare(point):
        assert point == point
        assert point != jax.tree.map(lambda x: x + 0, point)
        return point.x

    compare(Point(1.0))


class Grey:
    """A plain class, no PyTree; compared by content, so that it has no hash."""

    def __init__(self):
        self.weight = np.full(3, 1 / 3, np.float32)

    def __eq__(self, other):
        return isinstance(other, Grey)

    def __call__(self, x):
        return jnp.sum(x * self.weight, axis=-1, keepdims=True)

    def mean(self, x):
        return self(x)


class Laplace:
    """A noise model that is no PyTree."""

    def sample(self, key, clean):
        return clean + SIGMA_Y * jax.random.laplace(key, clean.shape)

    def log_likelihood(self, y, clean):
        return -jnp.abs(y - clean) / SIGMA_Y

    def variance(self, clean):
        return 2 * SIGMA_Y**2


class Shrinking:
    """A sampler that is no PyTree."""

    def init(self, key, t):
        return jax.random.normal(key, SHAPE)

    def step(self, key, state, t, s):
        return 0.9 * state + 0.1 * jax.random.normal(key, SHAPE), Prediction(state)

    def image(self, state):
        return state


class Counting:
    """An observer that is no PyTree."""

    def start(self):
        return jnp.int32(0)

    def look(self, seen, *step):
        return seen + 1


class Unknown:
    """A prior that is no PyTree."""

    schedule, image_shape = linear(), SHAPE

    def predict(self, x_t, t):
        return Prediction(0.5 * x_t)

    def bound(self, x0):
        return x0

    def at(self, image_shape):
        return self


def mean_of(operator):
    return DPS(gaussian_prior(), Measurement(operator, jnp.zeros((*SHAPE[:2], 1)), SIGMA_Y), 0.5)


STRANGERS = {
    "lambda": lambda: mean_of(lambda x: x.mean(-1, keepdims=True)),
    "compiled function": lambda: mean_of(jax.jit(lambda x: x.mean(-1, keepdims=True))),
    "partial function": lambda: mean_of(partial(jnp.mean, axis=-1, keepdims=True)),
    "object": lambda: mean_of(Grey()),
    "method": lambda: mean_of(Grey().mean),
    "guided by an object": lambda: DDPM(MMPS(gaussian_prior(), mean_of(Grey()).measurement)),
    "noise": lambda: DPSLikelihood(gaussian_prior(), Measurement(Identity(), jnp.zeros(SHAPE), Laplace()), 0.1),
    "network": lambda: DDPM(Denoiser(lambda x_t, t: 0.1 * x_t, linear(), SHAPE)),
    "prior": lambda: DDPM(Unknown()),
    "sampler": Shrinking,
}


@pytest.mark.thorough
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("make", STRANGERS.values(), ids=STRANGERS)
def test_many_chains_take_what_is_no_pytree_as_one_chain_does(make):
    sampler, keys = make(), jax.random.split(jax.random.key(0), 2)
    *_, last = sample_segments(sampler, keys, TIMES, segment=4, observer=Counting())
    assert last.seen.tolist() == [len(TIMES) - 1] * 2
    np.testing.assert_allclose(last.state[0], sample(sampler, keys[0], TIMES)[0], atol=2e-5)
    np.testing.assert_allclose(sample_many(sampler, keys, TIMES, segment=4), last.state, atol=2e-5)
    assert plan(sampler, TIMES).per_chain > 0


PRIOR = gaussian_prior()
OTHER = dataclasses.replace(PRIOR, mean=-PRIOR.mean)


def guided_by(operator):
    return MMPS(PRIOR, Measurement(operator, jnp.ones(SHAPE), SIGMA_Y))


NUMBERS = jnp.array([0.5, 1.0, 2.0])
TRACED: dict[str, tuple[Any, Any]] = {
    "box": (lambda top: BoxMask(top, 1, 2, 2), jnp.arange(3)),
    "mask": (Mask, jnp.stack([COLOURED, 1 - COLOURED])),
    "random, keep": (lambda keep: RandomMask(jax.random.key(0), SHAPE, keep), jnp.array([0.3, 0.5, 1.0, 0.01])),
    "random, key": (lambda key: RandomMask(key, SHAPE, 0.5), jax.random.split(jax.random.key(0), 2)),
    "blur": (Blur, jnp.stack([lopsided_kernel(), lopsided_kernel().T])),
    "circular blur": (CircularBlur, jnp.stack([lopsided_kernel(), lopsided_kernel().T])),
    "gaussian blur": (lambda std: GaussianBlur(std, 7), NUMBERS),
    "measurement": (lambda sigma_y: lambda x: measure(jax.random.key(0), Identity(), x, sigma_y).y, NUMBERS),
    "photons": (lambda p: lambda x: measure(jax.random.key(0), Identity(), x, PoissonNoise(p)).y, 20 * NUMBERS),
    "ratio": (lambda sigma_y: lambda x: Measurement(Identity(), 0 * x, sigma_y).residual_ratio(x), NUMBERS),
    "mixture": (lambda w: lambda x: MixturePrior((w, 1.0), [PRIOR, OTHER]).predict(x, 300).x0_hat, NUMBERS),
    "guidance": (lambda top: lambda x: guided_by(BoxMask(top, 1, 2, 2)).predict(x, 300).x0_hat, jnp.arange(3)),
}


@pytest.mark.thorough
@pytest.mark.parametrize(("make", "numbers"), TRACED.values(), ids=TRACED)
def test_numbers_of_a_constructor_may_be_traced(make, numbers):
    """Checks look at what is known; a sweep equals its members one by one."""
    x = 0.4 * jax.random.normal(jax.random.key(1), SHAPE)
    apply = lambda number: make(number)(x)
    known = [n.tolist() if n.shape == () and jnp.issubdtype(n.dtype, jnp.number) else n for n in numbers]
    alone = jnp.stack([apply(number) for number in known])
    np.testing.assert_allclose(jax.vmap(apply)(numbers), alone, atol=2e-6)
    np.testing.assert_allclose(jax.jit(apply)(numbers[0]), alone[0], atol=2e-6)


def test_a_width_of_blur_can_be_learned():
    x = jax.random.normal(jax.random.key(1), SHAPE)
    loss = lambda std: jnp.sum(GaussianBlur(std, 7)(x) ** 2)
    assert float(jax.grad(loss)(0.8)) == pytest.approx(float(loss(0.805) - loss(0.795)) / 0.01, rel=1e-2)


@pytest.mark.thorough
def test_a_guided_chain_has_a_derivative():
    """A data step takes a gradient through the network already: learning its size needs the second derivative."""
    prior, measurement = network_prior(), Measurement(Identity(), jnp.zeros(SHAPE), SIGMA_Y)
    x_t = jax.random.normal(jax.random.key(1), SHAPE)

    def loss(zeta):
        times = np.array([200, 100, -1])
        return jnp.sum(sample(DPS(prior, measurement, zeta), jax.random.key(0), times, state=x_t)[0] ** 2)

    differentiate = jax.jit(jax.value_and_grad(loss))
    gradient = differentiate(0.5)[1]
    slope = (differentiate(0.52)[0] - differentiate(0.48)[0]) / 0.04
    assert abs(float(gradient)) > 0.1
    assert float(gradient) == pytest.approx(float(slope), rel=2e-2)
