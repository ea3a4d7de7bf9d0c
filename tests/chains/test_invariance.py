"""Sample `k` depends on key `k` alone: not on its neighbours, its place, the chunks, or the number of devices."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdiff import DDIM, DiffPIR, sample, sample_many, sample_segments
from jaxdiff.chains.devices import place
from jaxdiff.chains.program import advance_chains, start_chains
from jaxdiff.operators import CircularBlur
from tests.conftest import SAMPLERS, TIMES, gaussian_prior, network_sampler, of, sampler_of
from tests.samplers.conftest import bit_sampler, bits_of, image_of

DEVICES = 8
KEYS = jax.random.split(jax.random.key(4), DEVICES)
ORDER = np.array([5, 2, 7, 0, 3, 6, 1, 4])
# Two programs round differently; a dependence on another sample would show in the first digit.
ROUNDING = 2e-5


SUBJECTS = {name: functools.partial(sampler_of, name) for name in SAMPLERS} | {
    "noise": bit_sampler,
    "network": network_sampler,
}


@jax.jit
def draw(sampler, keys):
    return jax.vmap(lambda key: sampler.image(sample(sampler, key, TIMES)[0]))(keys)


def write_on_devices(path: str, names: list[str]) -> None:
    """Draws with one sample on each device; runs in a process that has so many."""
    mesh = jax.make_mesh((DEVICES,), ("seeds",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("seeds"))
    keys = jax.device_put(KEYS, spread)
    samples = {name: draw(SUBJECTS[name](), keys) for name in names}
    for name, drawn in samples.items():
        assert drawn.sharding.is_equivalent_to(spread, drawn.ndim), name
    arrays: dict[str, Any] = {name: np.asarray(drawn) for name, drawn in samples.items()}
    arrays |= draw_in_segments(keys) | {"words": np.array(words_between_devices())}
    np.savez(path, **arrays)


def words_between_devices() -> list[str]:
    """Returns what devices say to each other in a program whose Fourier transforms XLA cannot split between them."""
    devices, times = tuple(jax.local_devices()), jnp.asarray(TIMES)
    sampler = DDIM(DiffPIR(gaussian_prior(), of(CircularBlur(np.full((3, 3), 1 / 9, np.float32)))))
    keys = place(KEYS, devices, "chains")
    state = start_chains(sampler, keys, times[0], devices=devices)
    visits = jnp.zeros(len(times) - 1, int)
    lowered = advance_chains.lower(sampler, None, keys, state, None, times, visits, devices=devices)
    text = str(lowered.compile().as_text())
    assert " fft(" in text
    return re.findall(r"all-gather|all-reduce|all-to-all|collective-permute", text)


def draw_in_segments(keys: jax.Array) -> dict[str, np.ndarray]:
    """Draws with `sample_segments` on all devices: every leaf shared out, from keys of any sharding, and resumed."""
    sampler = SUBJECTS["network"]()
    options: dict[str, Any] = {"batch_size": 5, "segment": 4}
    at_start = list(sample_segments(sampler, KEYS, TIMES, devices=jax.local_devices(), **options))
    for progress in at_start:
        for leaf in (progress.state, progress.x0_hat):
            assert {part.data.shape[0] for part in leaf.addressable_shards} == {1}
            assert len(leaf.sharding.device_set) == DEVICES
    kept = at_start[0]._replace(state=np.asarray(at_start[0].state))
    *_, resumed = sample_segments(sampler, KEYS, TIMES, devices=jax.local_devices(), after=kept, **options)
    *_, following = sample_segments(sampler, keys, TIMES, **options)
    assert len(following.state.sharding.device_set) == DEVICES
    three = sample_many(sampler, KEYS[:3], TIMES, devices=jax.local_devices())
    noise = sample_many(SUBJECTS["noise"](), KEYS, TIMES, devices=jax.local_devices()[:4], segment=4)
    return {
        "given": np.asarray(at_start[-1].state),
        "resumed": np.asarray(resumed.state),
        "of the keys": np.asarray(following.state),
        "three": np.asarray(three),
        "four": np.asarray(noise),
    }


@functools.cache
def draw_together(name: str) -> np.ndarray:
    """Returns the samples of all keys, drawn by one program on one device."""
    return np.asarray(draw(SUBJECTS[name](), KEYS))


@pytest.fixture(scope="module")
def on_devices(request, tmp_path_factory) -> dict[str, np.ndarray]:
    """What a process that has many devices draws, of the rows that are tested."""
    here = [item for item in request.session.items if item.path == request.path]
    asked = {item.callspec.params.get("name") for item in here if hasattr(item, "callspec")}
    names = [name for name in SUBJECTS if name in asked]
    path = tmp_path_factory.mktemp("devices") / "samples.npz"
    command = f"from tests.chains.test_invariance import write_on_devices; write_on_devices({str(path)!r}, {names})"
    devices = f"--xla_force_host_platform_device_count={DEVICES}"
    flags = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {devices}", "JAX_PLATFORMS": "cpu"}
    arguments, root = [sys.executable, "-c", command], Path(__file__).parents[2]
    done = subprocess.run(arguments, env=os.environ | flags, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with np.load(path) as stored:
        return dict(stored)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noise", "network"])
def test_neighbours_and_place_change_no_bit(name):
    """For every row of the table, the laws of samplers draw in shuffled batches."""
    sampler, samples = SUBJECTS[name](), draw_together(name)
    np.testing.assert_array_equal(draw(sampler, KEYS[ORDER]), samples[ORDER])
    for k in (2, 7):
        copies = draw(sampler, KEYS[jnp.full(DEVICES, k)])
        np.testing.assert_array_equal(copies, np.broadcast_to(samples[k], samples.shape))


def test_random_bits_are_those_of_the_keys_of_the_steps():
    sampler = SUBJECTS["noise"]()
    drawn = draw_together("noise")
    for k in (0, 5):
        keys_of_steps = [jax.random.fold_in(KEYS[k], jnp.int32(t)) for t in (-1, *TIMES[:-1])]
        np.testing.assert_array_equal(drawn[k], jnp.concatenate([bits_of(key) for key in keys_of_steps]))
    np.testing.assert_array_equal(sample_many(sampler, KEYS, TIMES, batch_size=3, segment=4), drawn)


@pytest.mark.thorough
def test_samples_of_a_network_are_those_drawn_alone_and_in_chunks():
    sampler = SUBJECTS["network"]()
    samples, alone = draw_together("network"), [draw(sampler, KEYS[k : k + 1])[0] for k in range(DEVICES)]
    np.testing.assert_allclose(alone, samples, atol=ROUNDING)
    chunks = sample_many(sampler, KEYS, TIMES, batch_size=3)
    np.testing.assert_allclose(chunks, samples, atol=ROUNDING)
    np.testing.assert_array_equal(sample_many(sampler, KEYS[ORDER], TIMES, batch_size=3), chunks[ORDER])


@pytest.mark.thorough
@pytest.mark.parametrize("name", SUBJECTS)
def test_samples_on_eight_devices_are_those_of_single_chains(name, on_devices):
    bound, sampler = 0 if name == "noise" else ROUNDING, SUBJECTS[name]()
    single = [np.asarray(image_of(sampler, key)) for key in KEYS]
    np.testing.assert_allclose(on_devices[name], single, rtol=0, atol=bound)


@pytest.mark.thorough
def test_segments_on_eight_devices_are_those_on_one(on_devices):
    samples = draw_together("network")
    for name in ("given", "of the keys"):
        np.testing.assert_allclose(on_devices[name], samples, rtol=0, atol=ROUNDING)
    np.testing.assert_array_equal(on_devices["resumed"], on_devices["given"])
    np.testing.assert_allclose(on_devices["three"], samples[:3], rtol=0, atol=ROUNDING)
    np.testing.assert_array_equal(on_devices["four"], draw_together("noise"))


@pytest.mark.slow
def test_devices_say_no_word_to_each_other(on_devices):
    assert on_devices["words"].size == 0


def test_many_chains_may_be_part_of_a_jitted_program():
    sampler = SUBJECTS["ddpm"]()
    inside = jax.jit(lambda keys: sample_many(sampler, keys, TIMES, batch_size=4))(KEYS)
    np.testing.assert_allclose(inside, sample_many(sampler, KEYS, TIMES), atol=ROUNDING)
