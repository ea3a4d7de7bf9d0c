"""Every core of a CPU draws its own chains."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from jaxdiff.chains import memory
from jaxdiff.chains.devices import share_out
from jaxdiff.chains.memory import plan
from jaxdiff.runs.platform import devices_for, use_all_cores
from tests.conftest import TIMES, sampler_of

ROOT = Path(__file__).parents[2]
START = """
import jax
from jaxdiff.runs.platform import use_all_cores
use_all_cores()
print(jax.device_count())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not say which cores are allowed")
@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, None), ({"JAX_NUM_CPU_DEVICES": "3"}, 3), ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5)],
)
def test_one_device_per_allowed_core_unless_the_user_chose(environment, expected):
    variables = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    done = subprocess.run([sys.executable, "-c", START], env=variables, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == (expected or len(os.sched_getaffinity(0)))


def test_devices_that_are_started_already_stay():
    before = jax.device_count()
    use_all_cores()
    assert jax.device_count() == before


@pytest.mark.parametrize(
    ("devices", "batch", "chains", "used", "filled"),
    [
        (1, 5, 9, 1, 5),
        (2, 5, 5, 2, 6),
        (2, 5, 9, 2, 6),
        (8, 3, 3, 3, 3),
        (8, 5, 8, 8, 8),
        (8, 9, 9, 5, 10),
        (16, 99, 1, 1, 1),
        (4, 64, 99, 4, 64),
    ],
)
def test_no_device_is_there_for_copies_alone(devices, batch, chains, used, filled):
    given = list(range(devices))
    assert share_out(given, batch, chains) == (given[:used], filled)


def test_cpus_without_room_for_a_chain_each_are_fewer(monkeypatch):
    sampler, eight = sampler_of("dps"), jax.devices() * 8
    monkeypatch.setattr(memory, "available_memory", lambda device: 2**40)
    ample = plan(sampler, TIMES, devices=eight)
    assert ample.devices == 8
    need = ample.fixed + ample.per_chain
    monkeypatch.setattr(memory, "available_memory", lambda device: int(3.5 * need / 0.9))
    scarce = plan(sampler, TIMES, devices=eight)
    assert (scarce.devices, scarce.batch_size) == (3, 3)
    monkeypatch.setattr(memory, "available_memory", lambda device: need // 2)
    assert plan(sampler, TIMES, devices=eight).batch_size == 0


def test_large_images_are_left_to_one_device_on_a_cpu(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices() * 4)
    assert len(devices_for((64, 64, 3))) == 4
    assert len(devices_for((256, 256, 3))) == 1
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform="gpu")] * 4)
    assert len(devices_for((256, 256, 3))) == 4
