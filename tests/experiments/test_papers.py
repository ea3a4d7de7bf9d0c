"""The reports' settings reach the samplers, their numbers stand beside ours, and what they leave open is said."""

import json
from dataclasses import replace
from html import escape
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.compare.__main__ import Compare, figure, main
from experiments.shared.cells import Cell, file_name
from experiments.shared.papers import CHIN_ZHANG, JACQUES, OURS, PAPERS, QI, ZHU
from experiments.shared.problems import PROBLEMS, Problem, make_problem
from experiments.shared.published import FixedLarge, departures, published
from experiments.shared.tables import score_table, summary, without_missing
from jaxdiff import Denoiser, GaussianPrior, Measurement
from jaxdiff.errors import UserError
from jaxdiff.networks.unet import FFHQ_256
from jaxdiff.operators import Identity
from jaxdiff.priors.gaussian import Diagonal
from jaxdiff.runs.methods import METHODS, Run, make_run
from jaxdiff.runs.runner import Drawn, Timing
from jaxdiff.samplers.base import ancestral_step
from jaxdiff.schedule import linear
from tests.conftest import SIGMA_Y, TINY, gaussian_prior

FFHQ: Any = SimpleNamespace(
    network=SimpleNamespace(config=FFHQ_256), image_shape=(256, 256, 3), variance="learned_range"
)
SMALL: Any = SimpleNamespace(network=SimpleNamespace(config=TINY), image_shape=(16, 16, 3), variance="fixed_small")


def settings_of(paper, name, task, steps=1000):
    """What a report's settings become on a 16x16 image, as a sampler with its times."""
    prior = GaussianPrior(jnp.zeros((16, 16, 3)), Diagonal(jnp.ones((16, 16, 3))), linear())
    problem = make_problem(task, prior.mean, SIGMA_Y, seed=0)
    variant = next(v for v in paper.variants if v.name == name)
    return make_run(variant.method, problem.task, prior, problem.measurement, steps, variant.chosen[task])


def row(method, psnr, task="box"):
    rest = {"ssim": 0.5, "lpips_vgg": "n/a", "lpips_alex": 0.1, "residual_ratio": 1.0}
    return {"task": task, "method": method, "psnr": psnr, **rest}


@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
def test_every_number_belongs_to_something_that_runs(paper):
    names = [variant.name for variant in paper.variants]
    assert len({file_name("box", name) for name in names}) == len(names)
    not_run = [variant.name for variant in paper.variants if not variant.chosen]
    assert not_run == (["ScoreALD, gamma not stated"] if paper is JACQUES else [])
    for variant in paper.variants:
        assert variant.method in METHODS
        assert set(variant.chosen) <= set(PROBLEMS)
        if variant.chosen:
            assert set(variant.numbers) <= set(variant.chosen)
            assert set(variant.numbers) == (set() if paper is QI else set(variant.chosen))
        for task in variant.chosen:
            settings_of(paper, variant.name, task)


@pytest.mark.parametrize(
    ("paper", "name", "noisy", "clean"),
    [
        ("zhu", "ScoreALD", 1 / (0.05**2 + 15**2), 1 / (0.05**2 + 20**2)),
        ("qi", "ScoreALD", 2 / (0.05**2 + 15**2), 2 / (0.05**2 + 20**2)),
        ("jacques", "ScoreALD, gamma 10 to 15", 1 / 15, 1 / 10),
        ("jacques", "ScoreALD, gamma 28 to 33", 1 / 33, 1 / 28),
    ],
)
def test_score_ald_pulls_as_hard_as_the_report(paper, name, noisy, clean):
    """At the first step (most noise) and at the last, on `A^T (y - A x)` for the box."""
    sampler = settings_of(PAPERS[paper], name, "box").sampler
    assert sampler.weighting(SIGMA_Y, sampler.gamma_noisy) == pytest.approx(noisy)
    assert sampler.weighting(SIGMA_Y, sampler.gamma_clean) == pytest.approx(clean)


def test_starts_and_step_sizes_are_the_reports():
    side = (16 * 16 * 3 / 196608) ** 0.5
    assert settings_of(ZHU, "DPS", "box").sampler.zeta == pytest.approx(1.0 * side)
    assert settings_of(ZHU, "DPS", "blur").sampler.zeta == pytest.approx(0.3 * side)
    assert settings_of(JACQUES, "DPS, zeta 0.1", "random").sampler.zeta == pytest.approx(0.1 * side)
    # Two reports do not state theirs, and take these, whatever the defaults are.
    for paper in (CHIN_ZHANG, QI):
        found = [settings_of(paper, "DPS", task).sampler.zeta for task in PROBLEMS]
        assert found == pytest.approx([1.0 * side, 1.0 * side, 0.3 * side])
    assert settings_of(ZHU, "SDEdit", "blur").times[0] == 500
    assert [settings_of(QI, f"SDEdit, start {t}", "box").times[0] for t in (250, 500, 750)] == [250, 500, 750]


def test_the_largest_variance_can_be_given_to_any_network():
    def network(x_t, t):
        return jnp.concatenate([0.1 * x_t, jnp.full_like(x_t, -1.0)], axis=-1)

    schedule, x_t, t = linear(), jax.random.normal(jax.random.key(0), (8, 8, 3)), 500
    learned = Denoiser(network, schedule, (8, 8, 3), variance="learned_range")
    large = Denoiser(lambda x_t, t: 0.1 * x_t, schedule, (8, 8, 3), variance="fixed_large")
    found = FixedLarge(learned).predict(x_t, t)
    np.testing.assert_allclose(found.x0_hat, large.predict(x_t, t).x0_hat, rtol=1e-6)
    one, other = (ancestral_step(schedule, jax.random.key(i), x_t, found, t, 400) for i in (0, 1))
    noise = jax.random.normal(jax.random.key(0), x_t.shape) - jax.random.normal(jax.random.key(1), x_t.shape)
    np.testing.assert_allclose(one - other, jnp.sqrt(schedule.beta(t, 400)) * noise, atol=1e-5)
    assert FixedLarge(gaussian_prior()).image_shape == gaussian_prior().image_shape


def test_numbers_stand_beside_ours_where_they_are_about_the_same_network():
    rows = [row(method, psnr) for method, psnr in (("SDEdit", 20.0), ("DPS", 30.0))]
    assert published(None, SMALL) == {}
    assert "Zhu" not in score_table(rows, published(None, SMALL))
    table = score_table(rows, published(None, FFHQ))
    head, _, _, dps = table.splitlines()
    assert [title for title in ("Zhu", "Jacques", "Chin & Zhang", "Qi") if title in head] == [
        "Zhu", "Jacques", "Chin & Zhang"
    ]  # fmt: skip
    assert "| **30.00 ± 0.00** | 35.43 ± 0.41 / 0.022 ± 0.001 | 33.69 / 0.026 | 34.42 / 0.02 |" in dps
    assert "**20.00 ± 0.00**" not in table
    # The best of a report counts a row whose settings are not known.
    assert published(None, FFHQ)["Jacques: PSNR / LPIPS (their face)"]["random", "ScoreALD"] == "32.91 / 0.038"
    # With a report's settings, its numbers stand beside another network's too, and say whose they are.
    (title,) = published(JACQUES, SMALL)
    assert "FFHQ-256, their face" in title
    assert published(JACQUES, SMALL)[title]["blur", "DPS, zeta 0.3"] == "27.92 / 0.072"
    assert published(QI, SMALL) == {}


def test_the_table_of_a_report_leaves_out_what_was_not_computed():
    table = summary([row("SDEdit", 20.0), row("DPS", 30.0)])
    assert table[0]["LPIPS (vgg)"] == "n/a"
    assert list(without_missing(table)[0]) == [
        "task", "method", "PSNR (dB)", "SSIM", "LPIPS (alex)", "residual / noise"
    ]  # fmt: skip
    assert "**" not in str(table)


def test_only_true_differences_are_named():
    assert departures(ZHU, 1000, FFHQ) == []
    words = " ".join(departures(ZHU, 250, SMALL))
    assert "this run takes 250" in words
    assert "(16x16)" in words
    assert "fixed_small, is used" in words
    assert "gammas" not in " ".join(departures(JACQUES, 250, FFHQ))
    # Two settings that are cut to the same must not look like two results.
    assert "gammas below 50" in " ".join(departures(JACQUES, 20, FFHQ))
    cut = [settings_of(JACQUES, f"ScoreALD, gamma {name}", "box", 20).sampler for name in ("10 to 15", "28 to 33")]
    assert cut[0].gamma_clean == cut[1].gamma_noisy == 1.0
    assert "ends noisier" in " ".join(departures(QI, 250, FFHQ))


def test_a_report_is_compared_end_to_end(normal_prior, photo, tmp_path, capsys):
    config = Compare(
        prior=normal_prior,
        image=photo,
        steps=4,
        seeds=1,
        paper="zhu",
        tasks=("random", "box"),
        methods=("sdedit",),
        out=tmp_path / "results",
    )
    main(config)
    said = capsys.readouterr().out
    _, _, line = (config.out / "table.md").read_text().splitlines()
    assert line.startswith("| box inpainting | SDEdit | ")
    assert "| 19.85 ± 0.50 / 0.288 ± 0.024 |" in line
    page = (config.out / "report.html").read_text()
    assert "<td>19.85 ± 0.50 / 0.288 ± 0.024</td>" in page
    assert "<h1>The settings of Zhu</h1>" in page
    written = json.loads((config.out / "config.json").read_text())
    assert written["settings"]["paper"] == "zhu"
    assert written["hyper_parameters"]["box inpainting, SDEdit"]["start"] == 500
    for sentence in written["Left open by Zhu"] + written["Different from Zhu"]:
        assert sentence in said
        assert escape(sentence) in page
    with pytest.raises(UserError, match=r"other settings \(paper\)"):
        main(replace(config, paper="chin-zhang", resume=True))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"paper": "zuh"}, "unknown paper 'zuh'.*did you mean 'zhu'"),
        ({"paper": "zhu", "tasks": ("random",)}, "--paper zhu has no settings for these --tasks"),
        ({"paper": "qi", "methods": ("dsp",)}, "did you mean 'dps'"),
    ],
)
def test_bad_choices_are_one_sentence(tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        main(replace(Compare(out=tmp_path / "results"), **changes))
    assert not (tmp_path / "results").exists()


def test_many_methods_get_two_rows_per_task_and_what_was_not_run_a_blank():
    truth = jnp.zeros((16, 16, 3))
    drawn = Drawn(np.zeros((2, 16, 16, 3), np.float32), np.zeros((0, 16, 32, 3), np.uint8), Timing(0, 0), False)
    experiment: Any = SimpleNamespace(truth=truth)
    measurement, run = Measurement(Identity(), truth, SIGMA_Y), Run(None, np.array([0, -1]), {})

    def shape(variants):
        cells = [
            Cell(Problem(task, measurement, {}), variant.name, run, drawn, [row(variant.name, 20.0)])
            for task in PROBLEMS
            for variant in variants
            if task in variant.chosen
        ]
        return figure(experiment, cells).shape

    (few_h, few_w, _), (many_h, many_w, _) = shape(OURS[:3]), shape(QI.variants)
    assert many_h > 1.8 * few_h
    assert many_w < few_w
