"""An exported sampler runs without this package, and draws the same samples."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxdiff import sample_many, time_grid
from jaxdiff.chains import archive
from jaxdiff.images.files import read_image
from jaxdiff.runs.runner import sample_keys
from tests.conftest import network_sampler, sampler_of

# Two programs round differently; another key or number would show in the first digit.
ROUNDING = 2e-5
TIMES = time_grid(1000, 6)


def start(folder, *arguments):
    """Runs the folder's own script, in another directory, by an interpreter that finds no jaxdiff."""
    code = f"""
import runpy, sys
sys.modules["jaxdiff"] = None  # an import of it fails
sys.argv = ["run.py", *{list(arguments)!r}]
runpy.run_path({str(folder / "run.py")!r}, run_name="__main__")
assert not any(name.startswith(("jaxdiff.", "flax", "orbax")) for name in sys.modules)
"""
    command = [sys.executable, "-I", "-c", code]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, env={"JAX_PLATFORMS": "cpu"})


@pytest.mark.thorough
def test_a_network_runs_without_jaxdiff_and_draws_the_same(tmp_path):
    """Exported for two platforms, run on one; more samples than a batch, and another measurement."""
    sampler = network_sampler()
    archive.save(tmp_path / "archive", sampler, TIMES, 2, platforms=("cpu", "cuda"))
    done = start(tmp_path / "archive", "--samples", "3", "--seed", "5", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    samples = np.load(tmp_path / "out" / "samples.npy")
    np.testing.assert_allclose(samples, sample_many(sampler, sample_keys(5, 3), TIMES), atol=ROUNDING)
    seen = read_image(tmp_path / "out" / "sample_1.png")
    np.testing.assert_allclose(seen, np.clip(samples[1], -1, 1), atol=1.1 / 127.5)
    np.save(tmp_path / "small.npy", np.zeros((4, 4, 3), np.float32))
    (tmp_path / "text.npy").write_text("none")
    for wrong, said in (
        (["--set", "measurement.y=small.npy"], "finite numbers of the shape (8, 6, 3), got (4, 4, 3)"),
        (["--set", "measurement.y=nothing.npy"], "'nothing.npy' is no array that numpy reads"),
        (["--set", "measurement.y=text.npy"], "'text.npy' is no array that numpy reads"),
        (["--set", "z=small.npy"], "a name of about.json, got 'z'"),
        (["--samples", "0"], "--samples must be at least 1"),
    ):
        refused = start(tmp_path / "archive", *wrong)
        assert refused.returncode == 2
        assert said in refused.stderr


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["mmps", "no image as state"])
def test_every_number_of_a_sampler_is_an_argument(name):
    sampler = sampler_of(name)
    program = archive.export(sampler, TIMES, 2)
    keys = jax.random.split(jax.random.key(3), 2)
    arrays = archive.named_arrays(sampler)
    drawn = program.call(arrays, jax.random.key_data(keys))
    np.testing.assert_allclose(drawn, sample_many(sampler, keys, TIMES), atol=ROUNDING)
    halved = {path: 0.5 * array if path.endswith("measurement.y") else array for path, array in arrays.items()}
    again = jax.tree.unflatten(jax.tree.structure(sampler), list(halved.values()))
    drawn = program.call(halved, jax.random.key_data(keys))
    np.testing.assert_allclose(drawn, sample_many(again, keys, TIMES), atol=ROUNDING)


def test_bad_platforms_and_sizes_are_refused(tmp_path):
    sampler = sampler_of("ddpm")
    with pytest.raises(ValueError, match="`platforms` must be some of cpu, cuda, rocm, tpu, got abacus"):
        archive.export(sampler, TIMES, 2, platforms=("abacus",))
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        archive.save(tmp_path / "none", sampler, TIMES, 0)
    assert not any(tmp_path.iterdir())
