"""An exported sampler runs without this package, and draws the same samples."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxdiff import archive, cli, load_prior, sample_many, time_grid
from jaxdiff.images.files import read_image, write_image
from jaxdiff.runs.runner import sample_keys
from tests.conftest import SAMPLERS, small_problem
from tests.test_invariance import make_network_sampler

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


def test_a_network_runs_without_jaxdiff_and_draws_the_same(tmp_path):
    """Exported for two platforms, run on one; more samples than a batch, and another measurement."""
    sampler = make_network_sampler()
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
        (["--set", "y=small.npy"], "finite numbers of the shape (8, 8, 3), got (4, 4, 3)"),
        (["--set", "y=nothing.npy"], "'nothing.npy' is no array that numpy reads"),
        (["--set", "y=text.npy"], "'text.npy' is no array that numpy reads"),
        (["--set", "z=small.npy"], "a name of about.json, got 'z'"),
        (["--samples", "0"], "--samples must be at least 1"),
    ):
        refused = start(tmp_path / "archive", *wrong)
        assert refused.returncode == 2
        assert said in refused.stderr


@pytest.mark.parametrize("name", ["ddpm", "dps", "mmps"])
def test_every_number_of_a_sampler_is_an_argument(name):
    denoiser, operator, y = small_problem()
    sampler = SAMPLERS[name](denoiser, operator, y)
    program = archive.export(sampler, TIMES, 2)
    keys = jax.random.split(jax.random.key(3), 2)
    arrays = archive.named_arrays(sampler)
    drawn = program.call(arrays, jax.random.key_data(keys))
    np.testing.assert_allclose(drawn, sample_many(sampler, keys, TIMES), atol=ROUNDING)
    if "y" in arrays:
        drawn = program.call({**arrays, "y": 0.5 * arrays["y"]}, jax.random.key_data(keys))
        again = SAMPLERS[name](denoiser, operator, 0.5 * y)
        np.testing.assert_allclose(drawn, sample_many(again, keys, TIMES), atol=ROUNDING)


def test_bad_platforms_and_sizes_are_refused(tmp_path):
    sampler = SAMPLERS["ddpm"](*small_problem())
    with pytest.raises(ValueError, match="`platforms` must be some of cpu, cuda, rocm, tpu, got abacus"):
        archive.export(sampler, TIMES, 2, platforms=("abacus",))
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        archive.save(tmp_path / "none", sampler, TIMES, 0)
    assert not any(tmp_path.iterdir())


def test_the_command_writes_a_folder_once(tmp_path, capsys):
    picture = np.tile(np.linspace(-1, 1, 32, dtype=np.float32)[:, None, None], (1, 32, 3))
    write_image(tmp_path / "picture.png", picture)
    write_image(tmp_path / "mask.png", np.where(np.arange(32)[:, None, None] < 16, 1.0, -1.0) * np.ones((32, 32, 3)))
    words = [
        "export",
        str(tmp_path / "picture.png"),
        "--mask",
        str(tmp_path / "mask.png"),
        "--out",
        str(tmp_path / "x"),
    ]
    words += ["--steps", "4", "--samples", "2", "--method", "score-ald"]
    cli.main(words)
    about = json.loads((tmp_path / "x" / "about.json").read_text())
    assert about["numbers"]["y"] == list(load_prior("faces-32").image_shape)
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"run.py", "program.bin", "arrays.npz", "about.json"}
    for more, said in (
        ([], "--overwrite replaces it"),
        (["--resume"], "does not belong"),
        (["--platforms", "gpu"], "unknown platform"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, *more])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    cli.main([*words, "--overwrite"])
