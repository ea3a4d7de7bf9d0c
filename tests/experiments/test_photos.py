"""Photographs beside what people use: the damages, the scores, the table."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.photos import __main__ as script
from experiments.photos.trials import TRIALS
from experiments.shared.photographs import find_photograph
from jaxdiff.errors import UserError


@pytest.fixture
def config(tmp_path):
    return script.Config(photographs=("hopper",), size=48, samples=2, steps=2, out=tmp_path / "out")


@pytest.mark.parametrize("trial", TRIALS)
def test_every_damage_is_a_measurement_of_the_photograph(trial, config) -> None:
    """Noise and rounding apart; holes hide some pixels and not all."""
    case = script.make_case("hopper", trial, config)
    assert case.truth.shape == (48, 48, 3)
    clean = np.asarray(case.measurement.operator(jnp.asarray(case.truth)))
    room = 4 * case.trial.sigma_y if case.trial.sigma_y else 0.5 / 127.5 + 1e-6
    inside = np.abs(clean) <= 1
    share = np.mean(np.abs(np.asarray(case.measurement.y) - clean)[inside] <= room)
    assert share > 0.999
    if case.hidden is not None:
        assert 0 < case.hidden.mean() < 1
        assert np.all(np.asarray(case.measurement.y)[case.hidden] == 0)


@pytest.mark.thorough
def test_a_run_goes_on_where_it_was_interrupted(config, monkeypatch, capsys) -> None:
    """What is finished is not made again, and the table has a line for every method."""
    monkeypatch.setattr(script, "PEERS", {"denoise": {"nothing": lambda given: [given.y]}, "inpaint": {}})
    script.main(replace(config, trials=("noise-25",)))
    first = json.loads((config.out / "results.json").read_text())
    script.main(replace(config, trials=("noise-25", "missing-50")))
    cells = json.loads((config.out / "results.json").read_text())
    assert cells["hopper/noise-25"] == first["hopper/noise-25"]
    noisy, restored = (
        next(row for row in cells["hopper/noise-25"] if row["method"] == name)["psnr"]
        for name in ("nothing", script.MEAN)
    )
    assert restored > noisy + 5
    table = (config.out / "table.md").read_text()
    assert len(table.splitlines()) == 2 + 3 + 2


def test_a_photograph_whose_package_is_missing_is_named(monkeypatch) -> None:
    """With the extra that brings it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"jaxdiff\[photos\]"):
        find_photograph("hopper")
