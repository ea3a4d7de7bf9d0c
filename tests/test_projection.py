"""The projection: exact where nothing is left to chance, and honest about where its numbers come from."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments import projection
from experiments.projection import Projection, Step, measured, wall_seconds
from jaxdiff.runs.errors import UserError

STEP = Step("by hand", 0.01, samples=8)
EXACT = Projection(
    images=100, tasks=3, seeds=2, steps=50, start_seconds=7, load_seconds=0, read_seconds=0.1, score_seconds=0.5,
    spread=0, hours_between_failures=1e12,
)  # fmt: skip


def test_without_chance_the_time_is_the_sum_of_its_parts():
    # The busiest of 3 chips has 34 images: 9 groups of 4 images, 8 samples, whose 2 copies take time but no scoring.
    steps, reading, scoring = 9 * 3 * 8 * 50 * 0.01, 100 * 0.1 + 9 * 3 * 4 * 0.1, 34 * 3 * 2 * 0.5
    expected = 7 + reading + 3 * 20 + steps + scoring + projection.TABLE_SECONDS
    np.testing.assert_allclose(wall_seconds(EXACT, STEP, 3, 20), expected)


def test_failures_spread_and_more_chips():
    times = wall_seconds(EXACT, STEP, 8, 0)
    assert np.median(wall_seconds(replace(EXACT, spread=0.1), STEP, 8, 0)) > times.max()
    # One chip works for about 0.04 h: with a failure every 0.04 h there is about one, and each costs the requeueing.
    failing = replace(EXACT, hours_between_failures=wall_seconds(EXACT, STEP, 1, 0)[0] / 3600, requeue_seconds=1000)
    extra = wall_seconds(failing, STEP, 1, 0) - wall_seconds(EXACT, STEP, 1, 0)
    assert 900 < extra.mean() < 1200
    assert wall_seconds(EXACT, STEP, 200, 0).max() < times.min()


def test_a_benchmark_gives_the_quickest_chain(tmp_path, capsys):
    record = {"network": "ffhq-256", "task": "dps", "side": "jaxdiff", "program": "chain", "seconds": [1.0]}
    chosen = record | {"dtype": "bfloat16", "median": 0.002, "seeds": 16, "compile_seconds": 40.0}
    others = [
        chosen | {"program": "step", "median": 0.001},
        chosen | {"side": "PyTorch", "median": 0.001},
        chosen | {"network": "faces-32", "median": 0.001},
        chosen | {"seconds": [], "median": 0.001},
        chosen | {"dtype": "float32", "median": 0.02},
    ]
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"device": "a chip", "records": [*others, chosen]}))
    assert measured(path, None) == Step("bfloat16, measured on a chip, 16 at once", 0.002, 16, 40.0)
    assert measured(path, "float32").seconds == 0.02
    projection.main(Projection(benchmark=path))
    said = capsys.readouterr().out
    assert "measured on a chip" in said
    assert "not measured" not in said
    with pytest.raises(UserError, match="no chain of DPS with ffhq-256 in tf32"):
        measured(path, "tf32")
    path.write_text("[]")
    with pytest.raises(UserError, match="no result of"):
        measured(path, None)


def test_without_a_measurement_it_says_so(capsys):
    projection.main(Projection())
    said = capsys.readouterr().out
    assert said.count("not measured") == 2
    assert [line.split("|")[1].strip() for line in said.splitlines() if line.startswith("| ")][2:5] == ["1", "8", "64"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"chips": ()}, "--chips"),
        ({"chips": (8, 0)}, "--chips"),
        ({"images": 0}, "--images"),
        ({"spread": -0.1}, "--spread"),
        ({"read_seconds": float("nan")}, "--read-seconds"),
        ({"seconds_per_image_step": 0.0}, "--seconds-per-image-step"),
        ({"hours_between_failures": 0.0}, "--hours-between-failures"),
        ({"dtype": "bfloat16"}, "--benchmark"),
    ],
)
def test_bad_input_is_one_sentence(changes, match):
    with pytest.raises(UserError, match=match) as error:
        projection.main(replace(Projection(), **changes))
    assert "\n" not in str(error.value)
