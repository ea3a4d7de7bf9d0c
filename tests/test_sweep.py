"""A sweep is the loop of single runs in one program; it says what is best, and how often it was compiled."""

import csv
import doctest
import json
import sys
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments import grids, sweep
from experiments.chains import PerChain, count_compilations, join
from experiments.shared.problems import Problem
from experiments.sweep.curves import Curve, Point, between_neighbours, draw_curves, markdown_table
from experiments.sweep.grids import Grid, read_gammas, read_zetas
from jaxdiff import DPS, ScoreALD, sample_many, time_grid
from jaxdiff.images.files import read_image, write_image
from jaxdiff.networks.unet import UNetConfig
from jaxdiff.operators import Identity
from jaxdiff.priors.storage import PriorConfig, save_prior
from jaxdiff.errors import UserError
from jaxdiff.runs.methods import Run
from jaxdiff.runs.runner import draw
from jaxdiff.samplers import over_variance, scale_zeta
from tests.conftest import SIGMA_Y, random_weights, small_problem

TINY = UNetConfig(16, 8, (1,), 1, (), num_heads=2, out_channels=6, norm_groups=4)
TIMES = time_grid(1000, 6)
KEYS = jax.random.split(jax.random.key(7), 2)


def drawn(runs, names, store, batch_size=None):
    run, keys = join(runs, names, KEYS)
    with count_compilations() as compilations:
        found = draw(
            "sweep", run, keys, store, Console(quiet=True), batch_size=batch_size, to_image=lambda state: state[1]
        )
    return found.samples.reshape(len(runs), len(KEYS), 8, 8, 3), compilations.count


def test_a_sweep_is_the_loop_of_single_runs_and_compiles_once(tmp_path):
    denoiser, operator, y = small_problem()

    def runs(*zetas):
        return [Run(DPS(denoiser, operator, y, zeta), TIMES, {}) for zeta in zetas]

    samples, compilations = drawn(runs(0.02, 0.1, 0.7), ("zeta",), tmp_path / "a.npz")
    assert compilations == 1
    for run, x in zip(runs(0.02, 0.1, 0.7), samples, strict=True):
        np.testing.assert_allclose(x, sample_many(run.sampler, KEYS, TIMES), atol=1e-4)
    assert abs(samples[0] - samples[2]).max() > 0.1
    # Other values: the same program. Another number of chains at once: another one.
    others, compilations = drawn(runs(0.7, 0.3, 0.02), ("zeta",), tmp_path / "b.npz")
    assert compilations == 0
    batches, compilations = drawn(runs(0.7, 0.3, 0.02), ("zeta",), tmp_path / "c.npz", batch_size=4)
    assert compilations == 1
    np.testing.assert_allclose(others, batches, atol=1e-4)
    np.testing.assert_allclose(others[::2], samples[::-2], atol=1e-4)


def test_a_step_takes_both_ends_of_gamma_from_the_state():
    denoiser, operator, y = small_problem()

    def sampler(clean, noisy):
        return ScoreALD(denoiser, operator, y, SIGMA_Y, clean, noisy, over_variance)

    ends = {"gamma_clean": jnp.float32(1.0), "gamma_noisy": jnp.float32(4.0)}
    state, prediction = PerChain(sampler(9.0, 9.0), tuple(ends)).step(KEYS[0], (ends, denoiser.mean), 500, 400)
    assert state[0] == ends
    np.testing.assert_allclose(state[1], sampler(1.0, 4.0).step(KEYS[0], denoiser.mean, 500, 400)[0], atol=1e-6)
    assert prediction.x0_hat.shape == denoiser.image_shape


def curve(psnrs, grid=None, ratio: Any = 1.0):
    grid = grid or Grid("dps", "", [(0.1 * 2**i,) for i in range(len(psnrs))])
    y = jnp.zeros((16, 16, 3))
    rest = {"ssim": 0.5, "lpips_vgg": "n/a", "lpips_alex": "n/a", "residual_ratio": ratio}
    points = [
        Point(given, given, np.asarray(y)[None], [{"seed": s, "psnr": psnr + s / 10, **rest} for s in (0, 1)])
        for given, psnr in zip(grid.values, psnrs, strict=True)
    ]
    return Curve(Problem("box", Identity(), {}, y, 0.05), grid, points)


def test_refinement_parts_the_bracket_of_the_best():
    values = between_neighbours(curve([10, 20, 15, 5]).points, 3)
    # 0.2 is best, between 0.1 and 0.4; the better neighbour is above and gets two of three.
    np.testing.assert_allclose(np.array(values)[:, 0], [0.1 * 2**0.5, 0.2 * 2 ** (1 / 3), 0.2 * 2 ** (2 / 3)])
    # At an end it goes on beyond, by one step of the grid.
    np.testing.assert_allclose(between_neighbours(curve([20, 10]).points, 2), [(0.1 / 2**0.5,), (0.1 * 2**0.5,)])
    pairs = Grid("score-ald", "over_gamma", [(10.0, 20.0), (40.0, 80.0)])
    np.testing.assert_allclose(between_neighbours(curve([1, 2], pairs).points, 1), [(20.0, 40.0)])
    assert len(between_neighbours(curve([20]).points, 4)) == 4


def test_the_best_is_told_in_words():
    best, near, blind = curve([10, 20, 19.7, 5], ratio=0.9).words()
    assert best == "Best PSNR at zeta 0.2 (given; 0.2 used): 20.1 ± 0.1 dB; the residual ratio there is 0.90."
    assert near.startswith("2 of 4 values come within 0.5 dB")
    assert near.endswith("0.2 to 0.4.")
    assert "nearest to 1 (0.90)" in blind
    assert "the largest value tried" in " ".join(curve([10, 20]).words())
    without_noise = curve([10, 20, 5], ratio="n/a")
    assert without_noise.words() == ["Best PSNR at zeta 0.2 (given; 0.2 used): 20.1 ± 0.1 dB."]
    assert draw_curves([without_noise]).startswith(b"\x89PNG")
    assert "| **0.2** | 0.2 | **20.05 ± 0.07** |" in markdown_table([without_noise])


def test_values_are_read():
    assert doctest.testmod(grids).failed == 0
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
        sweep.main(replace(sweep.Sweep(out=tmp_path / "results"), **changes))
    assert not (tmp_path / "results").exists()


def test_without_matplotlib_it_ends_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"jaxdiff\[plots\]"):
        sweep.main(sweep.Sweep(out=tmp_path / "results"))
    assert not (tmp_path / "results").exists()


def test_a_sweep_writes_everything_and_is_refined_later(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXDIFF_WEIGHTS", str(tmp_path / "empty"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    save_prior(tmp_path / "tiny", random_weights(TINY), PriorConfig(TINY))
    write_image(tmp_path / "photo.png", np.random.default_rng(0).uniform(-1, 1, (16, 16, 3)))
    config = sweep.Sweep(
        str(tmp_path / "tiny"),
        image=tmp_path / "photo.png",
        steps=4,
        seeds=2,
        out=tmp_path / "out",
        tasks=("box",),
        methods=("dps",),
        zeta="0.1:0.4:3",
    )
    sweep.main(config)
    assert "3 values x 2 seeds: 6 chains, 1 compilation" in capsys.readouterr().out
    sweep.main(replace(config, refine=2, resume=True))
    said = capsys.readouterr().out
    assert "6 chains, no compilation" in said
    assert "2 values x 2 seeds: 4 chains, no compilation" in said
    with (config.out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
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
