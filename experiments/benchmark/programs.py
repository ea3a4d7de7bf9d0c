"""The programs of this library that the benchmark times, and the networks they run with."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

from convert_weights.formats.unet import flax_shapes
from experiments.benchmark.timing import CHAIN, OURS, SHARED, STEP, Case, Program, fastest
from jaxdiff import DDPM, Denoiser, DPSNorm, Measurement, load_prior, sample, scale_zeta, time_grid
from jaxdiff.networks.precision import Dtype
from jaxdiff.networks.unet import FFHQ_256, UNet, UNetConfig
from jaxdiff.operators import BoxMask
from jaxdiff.priors.config import PriorConfig
from jaxdiff.priors.storage import parameters, with_parameters

TINY = UNetConfig(8, 32, (1,), 1, (), num_head_channels=32)
"""For trying the benchmark out: its times mean nothing."""

ARCHITECTURES = {"ffhq-256": FFHQ_256, "tiny": TINY}
"""Networks with random weights; every other name is that of a shipped prior."""


def load_network(name: str, dtype: Dtype) -> Denoiser:
    """Loads a shipped prior, or makes one of `ARCHITECTURES` with random weights."""
    if name not in ARCHITECTURES:
        return load_prior(name, dtype=dtype)
    config = ARCHITECTURES[name]
    network: UNet = nnx.eval_shape(lambda: UNet(config, dtype=dtype, rngs=nnx.Rngs(0)))
    return PriorConfig(config).make_denoiser(with_parameters(network, random_weights(config)))


def random_weights(config: UNetConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws weights that keep signals about as large as they come, and an output small beside the noise.

    With a small output the chain of an untrained network tends to an image.
    """
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if not name.endswith("kernel"):
            return np.full(shape, name.endswith("scale"), np.float32) + rng.normal(0, 0.1, shape).astype(np.float32)
        size = 0.1 if name == "out_conv.kernel" else 1.0
        return rng.standard_normal(shape, np.float32) * np.float32(size / np.sqrt(np.prod(shape[:-1])))

    return {name: draw(name, shape) for name, shape in flax_shapes(config).items()}


def weights_of(prior: Denoiser) -> dict[str, np.ndarray]:
    """Returns the weights by dotted name."""
    network: Any = prior.network
    return {name: np.asarray(weight) for name, weight in parameters(network).items()}


def box_measurement(prior: Denoiser) -> Measurement:
    """Returns what the reports' box, half the image wide and high, leaves of a smooth picture."""
    h, w, c = prior.image_shape
    waves = jnp.sin(jnp.arange(h) / 5)[:, None, None] * jnp.cos(jnp.arange(w) / 7)[None, :, None]
    box = BoxMask(top=h // 4, left=w // 4, height=h // 2, width=w // 2)
    return Measurement(box, box(jnp.broadcast_to(waves, (h, w, c))), 0.05)


def make_sampler(task: str, prior: Denoiser, steps: int) -> Any:
    """Returns DPS as its authors have it, or DDPM."""
    if task == "ddpm":
        return DDPM(prior)
    zeta = scale_zeta(0.5, prior.image_shape, steps)
    return DPSNorm(prior, box_measurement(prior), zeta)


def programs(case: Case, prior: Denoiser, dtype: Dtype) -> list[Program]:
    """Compiles what a case times of this library, in one precision."""
    images = jax.random.normal(jax.random.key(1), (case.seeds, *prior.image_shape))
    if case.task == "batch":
        return _batch_programs(case, prior, dtype, images)
    if case.task == "gradient":
        return _gradient_programs(case, prior, dtype, images)
    sampler = make_sampler(case.task, prior, case.steps)
    keys = jax.random.split(jax.random.key(0), case.seeds)
    times = jnp.asarray(time_grid(prior.schedule.num_times, case.steps))
    made = [
        _compiled(STEP, dtype, case.seeds, _step, sampler, keys, images, times[0], times[1]),
        _compiled(CHAIN, dtype, case.seeds * case.steps, _chain, sampler, keys, times),
    ]
    if (devices := jax.device_count()) > 1 and case.seeds % devices == 0:
        mesh = jax.make_mesh((devices,), ("chains",), axis_types=(AxisType.Auto,))
        sampler, times = jax.device_put((sampler, times), NamedSharding(mesh, PartitionSpec()))
        keys = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("chains")))
        made.append(_compiled(SHARED, dtype, case.seeds * case.steps, _chain, sampler, keys, times))
    return made


def _step(sampler: Any, keys: PRNGKeyArray, x_t: Array, t: Array, s: Array) -> Array:
    return jax.vmap(lambda key, x_t: sampler.step(key, x_t, t, s)[0])(keys, x_t)


def _chain(sampler: Any, keys: PRNGKeyArray, times: Array) -> Array:
    return jax.vmap(lambda key: sample(sampler, key, times)[0])(keys)


def _batch_programs(case: Case, prior: Denoiser, dtype: Dtype, images: Array) -> list[Program]:
    """The network for many images by `jax.vmap`, and by its own batch axis."""
    network: Any = prior.network
    times = jnp.full(case.seeds, 500)
    run = lambda network, x, t: jax.vmap(network)(x, t)
    return [
        _compiled("vmap", dtype, case.seeds, run, network, images, times),
        _compiled("own batch", dtype, case.seeds, lambda network, x, t: network.batch(x, t), network, images, times),
    ]


def _gradient_programs(case: Case, prior: Denoiser, dtype: Dtype, images: Array) -> list[Program]:
    """The network's input gradient inside a scan, and outside."""

    def descend(network: Any, x: Array) -> Array:
        gradient = jax.grad(lambda x: jnp.sum(jax.vmap(lambda x: network(x, 500))(x) ** 2))(x)
        return x - 1e-6 * gradient

    def many(network: Any, x: Array) -> Array:
        return jax.lax.scan(lambda x, _: (descend(network, x), None), x, length=case.steps)[0]

    return [
        _compiled("in a scan", dtype, case.seeds * case.steps, many, prior.network, images),
        _compiled("outside", dtype, case.seeds, descend, prior.network, images),
    ]


def _compiled(name: str, dtype: str, image_steps: int, function: Callable[..., Array], *args: Any) -> Program:
    """Compiles a function whose arguments, the weights among them, stay arguments."""
    started = time.perf_counter()
    executable = jax.jit(function).lower(*args).compile()
    seconds = time.perf_counter() - started
    found = executable.memory_analysis()
    sizes = ("argument", "output", "temp")
    memory = None if found is None else sum(getattr(found, f"{size}_size_in_bytes") for size in sizes)
    return Program(
        side=OURS,
        name=name,
        dtype=dtype,
        image_steps=image_steps,
        start=lambda: executable(*args),
        wait=jax.block_until_ready,
        compile_seconds=seconds,
        memory_bytes=lambda: memory,
        memory_source="the compiled program: arguments, results and temporaries",
    )


def matmul_peak(dtype: Dtype, sizes: tuple[int, ...]) -> float:
    """Returns the most floating-point operations per second of a jitted matrix product."""
    numbers = jnp.bfloat16 if dtype == "bfloat16" else jnp.float32
    precision = jax.lax.Precision.HIGHEST if dtype == "float32" else jax.lax.Precision.DEFAULT
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    best = 0.0
    for size in sizes:
        a, b = (jax.random.normal(jax.random.key(k), (size, size), numbers) for k in (0, 1))
        best = max(best, 2 * size**3 / fastest(lambda a=a, b=b: multiply(a, b), jax.block_until_ready))
    return best
