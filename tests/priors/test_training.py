"""Training: the loss against its formulas, and that it learns, averages and resumes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.stats import norm

from jaxdiff.networks.unet import UNet, UNetConfig
from jaxdiff.priors.storage import with_parameters
from jaxdiff.priors.training import (
    TrainState,
    average_weights,
    diffusion_loss,
    make_optimizer,
    make_train_step,
    stratified_times,
    variational_bound,
)
from jaxdiff.schedule import linear
from tests.conftest import random_weights

# Two sizes, because compiling is what these tests spend their time on.
MINI = UNetConfig(8, 8, (1,), 1, (), out_channels=3, norm_groups=4)
TINY = UNetConfig(8, 8, (1, 2), 1, (4,), num_heads=2, out_channels=3, norm_groups=4)


class Fixed:
    """A network with one answer, to isolate the loss."""

    def __init__(self, answer):
        self.answer = answer

    def batch(self, x_t, t):
        return self.answer(x_t, t)


def test_times_are_uniform_and_stratified():
    t = stratified_times(jax.random.key(0), 50, 1000)
    assert (t // 20 == jnp.arange(50)).all()


@pytest.mark.parametrize("target", ["epsilon", "x0", "v"])
def test_loss_is_zero_for_the_right_answer_and_the_variance_of_the_target_for_zero(target):
    x0 = jnp.broadcast_to(jnp.linspace(-1, 1, 192).reshape(8, 8, 3), (256, 8, 8, 3))
    schedule = linear()

    def right(x_t, t):
        alpha_t, sigma_t = jax.tree.map(lambda a: a[:, None, None, None], schedule(t))
        eps = (x_t - alpha_t * x0) / sigma_t
        return {"epsilon": eps, "x0": x0, "v": alpha_t * eps - sigma_t * x0}[target]

    options = {"target": target, "variance": "fixed_small"}
    loss, report = diffusion_loss(Fixed(right), schedule, jax.random.key(0), x0, **options)  # pyright: ignore
    assert loss < 1e-6
    assert report["eps_error"].max() < 1e-4
    loss, _ = diffusion_loss(Fixed(lambda x, t: 0 * x), schedule, jax.random.key(0), x0, **options)  # pyright: ignore
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    power = float(jnp.mean(x0**2))
    expected = {"epsilon": 1.0, "x0": power, "v": np.mean(alpha_bar + (1 - alpha_bar) * power)}[target]
    np.testing.assert_allclose(loss, expected, rtol=0.02)  # 49152 draws: four standard errors are 2.6 % of 1


@pytest.mark.parametrize(("t", "fraction"), [(1, 0.3), (300, 0.0), (300, 1.0), (999, 0.5)])
def test_variational_bound_is_the_divergence_of_two_gaussians(t, fraction):
    alpha_bar = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)
    a_t, a_s = alpha_bar[t], alpha_bar[t - 1]
    beta = 1 - a_t / a_s
    small = beta * (1 - a_s) / (1 - a_t)
    x0, x_t, x0_hat = 0.3, -0.5, 0.1
    variance = beta**fraction * small ** (1 - fraction)
    gap = beta * np.sqrt(a_s) / (1 - a_t) * (x0 - x0_hat)
    wanted = 0.5 * (np.log(variance / small) - 1 + small / variance + gap**2 / variance) / np.log(2)
    full = lambda value: jnp.full((1, 1, 1), value)
    found = variational_bound(linear(), full(x0), full(x_t), full(x0_hat), full(fraction), jnp.int32(t))
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-5)


def test_variational_bound_at_zero_is_the_likelihood_of_an_eight_bit_value():
    x0 = 2 * 100 / 255 - 1
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    small = np.linspace(1e-4, 0.02, 1000)[1] * (1 - alpha_bar[0]) / (1 - alpha_bar[1])
    wanted = -np.log2(norm.cdf(1 / 255 / small**0.5) - norm.cdf(-1 / 255 / small**0.5))
    full = lambda value: jnp.full((1, 1, 1), value)
    found = variational_bound(linear(), full(x0), full(x0), full(x0), full(0.0), jnp.int32(0))
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


@pytest.mark.thorough
def test_the_bound_trains_the_variance_only():
    schedule, x0 = linear(), 0.5 * jnp.ones((4, 2, 2, 3))

    def loss(output):
        network = Fixed(lambda x_t, t: output)
        return diffusion_loss(network, schedule, jax.random.key(0), x0, target="epsilon", variance="learned_range")[0]  # pyright: ignore

    def simple(output):
        network = Fixed(lambda x_t, t: output[..., :3])
        return diffusion_loss(network, schedule, jax.random.key(0), x0, target="epsilon", variance="fixed_small")[0]  # pyright: ignore

    output = 0.1 * jax.random.normal(jax.random.key(1), (4, 2, 2, 6))
    gradient = jax.grad(loss)(output)
    np.testing.assert_allclose(gradient[..., :3], jax.grad(simple)(output)[..., :3], atol=1e-7)
    assert (gradient[..., 3:] != 0).all()


def test_average_follows_its_formula():
    for step, decay in ((0, 0.1), (90, 0.91), (100_000, 0.999)):
        average = average_weights({"w": jnp.ones(3)}, {"w": jnp.zeros(3)}, jnp.int32(step), 0.999)
        np.testing.assert_allclose(average["w"], decay, rtol=1e-5)


def start(seed=0):
    graph, weights = jax.jit(lambda: nnx.split(UNet(MINI, rngs=nnx.Rngs(seed))))()
    optimizer = make_optimizer(200, learning_rate=2e-3, warm_up=5)
    step = jax.jit(make_train_step(graph, optimizer, linear(), target="v", variance="fixed_small"))
    return TrainState(weights, weights, optimizer.init(weights), jnp.zeros((), int)), step


@pytest.mark.thorough
def test_one_batch_is_learnt_and_a_cut_run_is_the_whole_run():
    x0 = jnp.broadcast_to(jnp.tanh(jax.random.normal(jax.random.key(3), (8, 1, 1, 3))), (8, 8, 8, 3))
    state, step = start()
    losses, kept = [], None
    for i in range(120):
        if i == 60:
            kept = jax.tree.map(np.asarray, state)
        state, report = step(state, jax.random.fold_in(jax.random.key(0), i), x0)
        losses.append(float(report["loss"]))
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:20])
    assert kept is not None
    again = kept
    for i in range(60, 120):
        again, _ = step(again, jax.random.fold_in(jax.random.key(0), i), x0)
    jax.tree.map(np.testing.assert_array_equal, again, state)


@pytest.mark.thorough
def test_weight_gradients_equal_finite_differences():
    """Training through the rewritten convolution: a wrong weight gradient would fail silently."""
    abstract: Any = nnx.eval_shape(lambda: UNet(TINY, rngs=nnx.Rngs(0)))
    # All weights non-zero: the zero-initialised last layers would hide every gradient behind them.
    graph, weights = nnx.split(with_parameters(abstract, random_weights(TINY)))
    x0 = jnp.tanh(jax.random.normal(jax.random.key(0), (2, 8, 8, 3)))

    def loss(weights):
        network = nnx.merge(graph, weights)
        return diffusion_loss(network, linear(), jax.random.key(9), x0, target="v", variance="fixed_small")[0]

    # One program for values too.
    differentiate = jax.jit(jax.value_and_grad(loss))
    _, gradient = differentiate(weights)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), jnp.float32), weights)
    size = optax.tree.norm(direction)
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.vdot(g, d), gradient, direction))) / size
    step = 0.02
    ahead, behind = (
        differentiate(jax.tree.map(lambda w, d, sign=sign: w + sign * step * d / size, weights, direction))[0]
        for sign in (1, -1)
    )
    # float32: the difference of two losses near 1 is known to 1e-7 / 0.04.
    np.testing.assert_allclose((ahead - behind) / (2 * step), slope, rtol=1e-2, atol=2e-5)
