"""A sweep is the loop of single runs in one program; it says what is best."""

import json
import sys
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments.shared.problems import Problem, make_problem
from experiments.shared.setup import Experiment
from experiments.sweep.__main__ import Sweep, draw_runs, main
from experiments.sweep.curves import Curve, Point, between_neighbours, draw_sweep, sweep_table
from experiments.sweep.grids import SweepGrid, read_gammas, read_zetas
from jaxdiff import Measurement, sample_many
from jaxdiff.errors import UserError
from jaxdiff.images.files import read_image
from jaxdiff.operators import Identity
from jaxdiff.runs.methods import make_run
from jaxdiff.runs.runner import sample_keys
from jaxdiff.samplers import scale_zeta
from tests.conftest import gaussian_prior

GRIDS = {
    "zeta": SweepGrid("dps", "", [(0.01,), (0.05,), (0.3,)]),
    "both ends of gamma": SweepGrid("score-ald", "over_variance", [(10.0, 40.0), (40.0, 10.0), (30.0, 30.0)]),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", GRIDS)
def test_a_sweep_is_the_loop_of_single_runs_in_one_program(name, tmp_path, programs):
    grid, steps = GRIDS[name], 6
    prior: Any = gaussian_prior()
    experiment = Experiment(prior, prior.mean, Console(quiet=True))
    problem = make_problem("random", experiment.truth, 0.05, 0)

    def draw(values, folder, **changes):
        (tmp_path / folder / "samples").mkdir(parents=True)
        config = Sweep(seeds=2, steps=steps, out=tmp_path / folder, **changes)
        fixed = grid.method, "inpaint", prior, problem.measurement, steps
        runs = [make_run(*fixed, grid.chosen(value)) for value in values]
        return runs, draw_runs(config, experiment, problem, grid, runs, "")

    runs, samples = draw(grid.values, "all")
    # Other values, also fewer of them: the same program.
    _, others = draw(grid.values[1::-1], "fewer")
    assert len(programs) == 1
    np.testing.assert_allclose(others, samples[1::-1], atol=1e-5)
    _, batches = draw(grid.values, "batches", batch_size=4)
    assert len(programs) == 2
    np.testing.assert_allclose(batches, samples, atol=1e-4)
    assert abs(samples[0] - samples[2]).max() > 0.01
    for run, x in zip(runs, samples, strict=True):
        np.testing.assert_allclose(x, sample_many(run.sampler, sample_keys(0, 2), run.times), atol=1e-4)


def curve(psnrs, grid=None, ratio: Any = 1.0):
    grid = grid or SweepGrid("dps", "", [(0.1 * 2**i,) for i in range(len(psnrs))])
    y = jnp.zeros((16, 16, 3))
    rest = {"ssim": 0.5, "lpips_vgg": "n/a", "lpips_alex": "n/a", "residual_ratio": ratio}
    points = [
        Point(given, given, np.asarray(y)[None], [{"seed": s, "psnr": psnr + s / 10, **rest} for s in (0, 1)])
        for given, psnr in zip(grid.values, psnrs, strict=True)
    ]
    return Curve(Problem("box", Measurement(Identity(), y, 0.05), {}), grid, points)


def test_refinement_parts_the_bracket_of_the_best():
    values = between_neighbours(curve([10, 20, 15, 5]).points, 3)
    # 0.2 is best, between 0.1 and 0.4; the better neighbour is above and gets two of three.
    np.testing.assert_allclose(np.array(values)[:, 0], [0.1 * 2**0.5, 0.2 * 2 ** (1 / 3), 0.2 * 2 ** (2 / 3)])
    # At an end it goes on beyond, by one step of the grid.
    np.testing.assert_allclose(between_neighbours(curve([20, 10]).points, 2), [(0.1 / 2**0.5,), (0.1 * 2**0.5,)])
    pairs = SweepGrid("score-ald", "over_gamma", [(10.0, 20.0), (40.0, 80.0)])
    np.testing.assert_allclose(between_neighbours(curve([1, 2], pairs).points, 1), [(20.0, 40.0)])
    assert len(between_neighbours(curve([20]).points, 4)) == 4


def test_the_best_is_said_in_words():
    best, near, blind = curve([10, 20, 19.7, 5], ratio=0.9).words()
    assert best == "Best PSNR at zeta 0.2 (given; 0.2 used): 20.1 ± 0.1 dB; the residual ratio there is 0.90."
    assert near.startswith("2 of 4 values come within 0.5 dB")
    assert near.endswith("0.2 to 0.4.")
    assert "nearest to 1 (0.90)" in blind
    assert "the largest value tried" in " ".join(curve([10, 20]).words())
    without_noise = curve([10, 20, 5], ratio="n/a")
    assert without_noise.words() == ["Best PSNR at zeta 0.2 (given; 0.2 used): 20.1 ± 0.1 dB."]
    assert draw_sweep([without_noise]).startswith(b"\x89PNG")
    assert "| **0.2** | 0.2 | **20.05 ± 0.07** |" in sweep_table([without_noise])


def test_values_are_read():
    assert read_zetas("0.1, 0.3,1.0") == [(0.1,), (0.3,), (1.0,)]
    values = np.array(read_zetas("0.05:2:12"))[:, 0]
    assert (values[0], values[-1], len(values)) == (0.05, 2.0, 12)
    np.testing.assert_allclose(np.diff(np.log(values)), np.log(40) / 11, rtol=1e-4)
    assert read_gammas(("28:33", "10:15", "28:33")) == [(10.0, 15.0), (28.0, 33.0)]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"zeta": "2:0.1:3"}, "--zeta '2:0.1:3' must go up"),
        ({"zeta": "abc"}, "neither a positive number nor from:to:count"),
        ({"zeta": "0.1:2:0"}, "count from 2 to 1000"),
        ({"zeta": "0.1:2:2.5"}, "count from 2 to 1000"),
        ({"zeta": "0.1:2"}, "neither a positive number nor"),
        ({"zeta": "-1"}, "neither a positive number nor"),
        ({"zeta": "0.1,nan"}, "--zeta 'nan'"),
        ({"zeta": ""}, "--zeta ''"),
        ({"gamma": ("10",)}, "--gamma '10' is not a pair"),
        ({"gamma": ("10:0",)}, "--gamma '10:0' is not a pair"),
        ({"gamma": ()}, "no --gamma"),
        ({"weightings": ("over_gama",)}, "did you mean 'over_gamma'"),
        ({"methods": ("sdedit",)}, "unknown method 'sdedit'"),
        ({"refine": -1}, "--refine"),
    ],
)
def test_bad_values_are_refused_before_anything_is_written(tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        main(replace(Sweep(out=tmp_path / "results"), **changes))
    assert not (tmp_path / "results").exists()


def test_without_matplotlib_it_ends_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"jaxdiff\[plots\]"):
        main(Sweep(out=tmp_path / "results"))
    assert not (tmp_path / "results").exists()


def test_a_sweep_writes_everything_and_is_refined_later(normal_prior, photo, tmp_path, read_rows, capsys, programs):
    config = Sweep(
        normal_prior, image=photo, steps=4, seeds=2, out=tmp_path / "out", tasks=("box",), methods=("dps",),
        zeta="0.1:0.4:3",
    )  # fmt: skip
    main(config)
    assert "3 values x 2 seeds: 6 chains; " in capsys.readouterr().out
    main(replace(config, refine=2, resume=True))
    said = capsys.readouterr().out
    assert "6 chains; " in said
    assert "(continued from an earlier run)" in said
    assert "2 values x 2 seeds: 4 chains; " in said
    assert len(programs) == 1
    rows = read_rows(config.out)
    assert [row["seed"] for row in rows] == ["0", "1"] * 5
    given = [float(row["given"]) for row in rows[::2]]
    assert given == sorted(given)
    assert {0.1, 0.2, 0.4} < set(given)
    assert float(rows[0]["used"]) == pytest.approx(scale_zeta(0.1, (16, 16, 3), 4))
    page, table = ((config.out / name).read_text() for name in ("report.html", "table.md"))
    assert page.count("data:image/png") == 2
    assert table.count("box inpainting") == 5
    assert read_image(config.out / "box_dps.png").shape[1] == 1200
    assert len(json.loads((config.out / "config.json").read_text())["values"]["box inpainting, DPS"]) == 5
