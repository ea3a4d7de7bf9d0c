"""What a batch needs is known before it runs, and what does not fit is said in a sentence."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdiff import DPS, plan, sample_many, time_grid
from jaxdiff.chains import many, memory
from jaxdiff.chains.memory import Plan, available_memory
from tests.conftest import small_problem

TIMES = time_grid(1000, 4)
KEYS = jax.random.split(jax.random.key(0), 5)
MiB = 2**20

MEASURE = """
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff import DPS, Denoiser, Measurement, plan, time_grid
from jaxdiff.chains.memory import _lower
from jaxdiff.priors.storage import with_parameters
from jaxdiff.operators import Identity
from jaxdiff.schedule import linear
from jaxdiff.networks.unet import UNet, UNetConfig
from tests.conftest import random_weights

def status(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

count = int(sys.argv[1])
config = UNetConfig(64, 32, (1,), 1, (), out_channels=6, norm_groups=8)
network = with_parameters(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))), random_weights(config))
prior = Denoiser(network, linear(), (64, 64, 3), variance="learned_range")
sampler, times = DPS(prior, Measurement(Identity(), jnp.zeros((64, 64, 3)), 0.05), 1.0), time_grid(1000, 2)
found, times, visits = plan(sampler, times), jnp.asarray(times), jnp.zeros(len(times) - 1, int)
arguments = jax.random.split(jax.random.key(0), count), jnp.ones((count, 64, 64, 3)), None, times, visits
weights = sum(jnp.asarray(leaf).nbytes for leaf in jax.tree.leaves(sampler))
program = _lower(sampler, None, times, count).compile()  # compiling takes memory too, and is not meant
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # starts the high-water mark anew
jax.block_until_ready(program(sampler, None, *arguments))
print(found.peak(count), status("VmHWM") - before + weights)
"""


def make_sampler():
    return DPS(*small_problem(), zeta=0.1)


@pytest.mark.parametrize("devices", [1, 4])
def test_the_largest_batch_fits_and_one_chain_more_per_device_does_not(devices):
    found = Plan(fixed=300 * MiB, per_chain=70 * MiB, available=2000 * MiB, devices=devices)
    most = 0.9 * found.available
    assert found.batch_size % devices == 0
    assert found.peak(found.batch_size) <= most < found.peak(found.batch_size + devices)


def test_a_plan_says_what_fits():
    assert (
        str(Plan(300 * MiB, 70 * MiB, 2000 * MiB))
        == "300 MiB and 70 MiB for every chain, of 2.0 GiB: batch_size=21 fits"
    )
    assert "not even one chain" in str(Plan(300 * MiB, 70 * MiB, 310 * MiB))


@pytest.mark.thorough
def test_every_chain_adds_as_much_and_more_chains_than_planned_add_no_other():
    found = plan(make_sampler(), TIMES, available=MiB)
    peaks = [memory._peak(make_sampler(), None, jax.numpy.asarray(TIMES), n) for n in (1, 4, 12)]
    np.testing.assert_allclose([found.peak(1), found.peak(4)], peaks[:2], atol=3)
    assert abs(found.peak(12) / peaks[2] - 1) < 0.15


def test_auto_draws_as_many_at_once_as_fit(monkeypatch):
    sampler, batches = make_sampler(), []
    need = plan(sampler, TIMES, available=MiB)
    monkeypatch.setattr(memory, "available_memory", lambda device: int(need.peak(2) / 0.89))
    drawn = sample_many(sampler, KEYS, TIMES, batch_size="auto", report=lambda done: batches.append(done.num_batches))
    assert set(batches) == {3}
    np.testing.assert_allclose(drawn, sample_many(sampler, KEYS, TIMES), atol=1e-5)
    monkeypatch.setattr(memory, "available_memory", lambda device: need.fixed)
    with pytest.raises(MemoryError, match="not even one chain fits"):
        sample_many(sampler, KEYS, TIMES, batch_size="auto")


class Full:
    """A device that holds two chains."""

    def __init__(self, advance):
        self.advance, self.lower = advance, advance.lower

    def __call__(self, sampler, observer, keys, *rest, **options):
        if len(keys) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12345 bytes.")
        return self.advance(sampler, observer, keys, *rest, **options)


def test_out_of_memory_names_the_batch_size_to_use(monkeypatch):
    sampler = make_sampler()
    need = plan(sampler, TIMES, available=MiB)
    monkeypatch.setattr(memory, "available_memory", lambda device: int(need.peak(2) / 0.89))
    monkeypatch.setattr(many, "advance_chains", Full(many.advance_chains))
    with pytest.raises(MemoryError, match=r"a batch of 5 chains needs about .* are free; use a batch size of 2\.$"):
        sample_many(sampler, KEYS, TIMES)
    assert sample_many(sampler, KEYS, TIMES, batch_size=2).shape[0] == 5


def test_the_advice_is_a_size_that_is_not_rounded_up_to_the_failing_one(monkeypatch):
    monkeypatch.setattr(many, "plan", lambda *arguments, **options: Plan(0, 100, 10000, devices=8))
    with (
        pytest.raises(MemoryError, match=r"use a batch size of 8\.$"),
        many._out_of_memory_explained(make_sampler(), TIMES, 16, None, jax.devices() * 8),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_control_groups_around_this_one_count(tmp_path, monkeypatch, version):
    """A batch system limits a job's group, not the root; files that were read can be given up."""
    limit, used = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}[version]
    base = tmp_path / "memory" if version == 1 else tmp_path
    step = base / "slurm" / "job_1" / "step_0"
    step.mkdir(parents=True)
    for group, most in ((step, "max" if version == 2 else "9000"), (step.parent, "4000")):
        (group / limit).write_text(f"{most}\n")
        (group / used).write_text("1500\n")
        (group / "memory.stat").write_text("anon 1000\ninactive_file 500\n")
    (tmp_path / "process").write_text(f"3:{'cpu,memory' if version == 1 else ''}:/slurm/job_1/step_0\n")
    groups = memory._memory_groups(tmp_path, tmp_path / "process")
    monkeypatch.setattr(memory, "_memory_groups", lambda: groups)
    assert min(left for left in memory._control_group() if left is not None) == 3000


def test_other_errors_of_the_device_pass(monkeypatch):
    class Broken(Full):
        def __call__(self, *arguments, **options):
            raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(many, "advance_chains", Broken(many.advance_chains))
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        sample_many(make_sampler(), KEYS, TIMES)


def test_memory_available_is_less_than_the_machine_has():
    assert 0 < available_memory(jax.devices()[0]) < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure")
@pytest.mark.parametrize("count", [8])
def test_predicted_memory_is_within_15_percent_of_the_measured(count):
    command, root = [sys.executable, "-c", MEASURE, str(count)], Path(__file__).parents[2]
    done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    predicted, measured = map(int, done.stdout.split())
    assert abs(predicted / measured - 1) < 0.15, (predicted, measured)
