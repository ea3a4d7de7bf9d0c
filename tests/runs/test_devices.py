"""Where JAX has no device of the kind asked for, that is what is said, and nothing is written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.images.files import write_image
from jaxdiff.priors.storage import load_prior
from jaxdiff.runs.platform import prepare

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("failure", [AssertionError(), RuntimeError("Unable to initialize backend 'cuda'.\nMore.")])
@pytest.mark.parametrize("start", [lambda: prepare(core_by_core=False), load_prior], ids=["prepare", "load_prior"])
def test_missing_devices_are_named(monkeypatch, start, failure):
    def devices():
        raise failure

    monkeypatch.setattr("jax.devices", devices)
    with pytest.raises(UserError, match=r"^JAX cannot start its devices \(.*\); JAX_PLATFORMS=cpu takes the CPU\.$"):
        start()


@pytest.mark.thorough
@pytest.mark.parametrize("command", [["jaxdiff", "restore", "photo.png", "--mask", "photo.png"], ["experiments.train"]])
def test_a_command_says_so_and_writes_nothing(tmp_path, command):
    write_image(tmp_path / "photo.png", np.full((8, 8, 3), 0.5, np.float32))
    arguments = [*command, *["--photos", "."] * (command[0] == "experiments.train"), "--out", "results"]
    environment = os.environ | {"JAX_PLATFORMS": "cuda", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "JAX cannot start its devices" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
