"""SDEdit's start times, the ruler of realism, and a red panda among faces."""

import csv
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments import out_of_distribution, problems, realism, sdedit
from experiments.out_of_distribution.panda import draw_panda
from experiments.shared.realism import NOISE_DRAWS, denoising_error, fit_ruler
from experiments.shared.setup import Experiment
from jaxdiff import DDPM, GaussianPrior, load_prior
from jaxdiff.images.files import read_image, write_image
from jaxdiff.metrics.pixels import psnr
from jaxdiff.priors.gaussian import Diagonal
from jaxdiff.priors.storage import PriorConfig, save_prior
from jaxdiff.errors import UserError
from jaxdiff.runs.runner import Drawn, Timing
from jaxdiff.schedule import linear
from tests.conftest import random_weights
from tests.test_scripts import TINY


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prior") / "tiny"
    save_prior(folder, random_weights(TINY), PriorConfig(TINY))
    return str(folder)


@pytest.fixture(autouse=True)
def flat_faces(monkeypatch):
    """Drawing faces compiles for seconds; here a face is a colour of its own."""
    for module in (problems, realism, out_of_distribution):
        monkeypatch.setattr(module, "held_out_face", lambda index, size: jnp.full((size, size, 3), 0.01 * index))


def read_rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_panda_is_the_same_at_every_size_and_russet_cream_and_black():
    small, large = draw_panda(32), draw_panda(64)
    np.testing.assert_allclose(large.reshape(32, 2, 32, 2, 3).mean((1, 3)), small, atol=0.1)
    forehead, cheek, nose = large[22, 32], large[40, 50], large[40, 32]
    assert forehead[0] > forehead[1] + 0.5 > forehead[2] + 0.5
    assert cheek.min() > 0.5
    assert nose.max() < -0.5


def two_groups(count, seed):
    """Features whose first axis tells damage, in the second's shadow: it varies far more, and with the first."""
    rng = np.random.default_rng(seed)
    who = rng.normal(size=(count, 1)) * [3.0, 20.0, 0.0]
    whole, damaged = (who + [mark, 0.0, 5.0] + 0.3 * rng.normal(size=(count, 3)) for mark in (1.0, -1.0))
    return whole, damaged


def test_a_ruler_tells_damage_from_identity_whatever_the_units():
    whole, damaged = two_groups(200, 0)
    ruler = fit_ruler(whole, damaged)
    assert ruler(whole).mean() == pytest.approx(1)
    assert ruler(damaged).mean() == pytest.approx(0)
    others = [ruler(group) for group in two_groups(200, 1)]
    # Along the difference of the means alone, identity would spread each group by 1.5.
    assert [x.mean() for x in others] == pytest.approx([1, 0], abs=0.1)
    assert max(x.std() for x in others) < 0.75
    units = np.array([1000.0, 0.01, 7.0])
    np.testing.assert_allclose(fit_ruler(whole * units, damaged * units)(whole * units), ruler(whole), rtol=1e-3)


def test_denoising_error_is_the_closed_form_on_a_gaussian_prior():
    schedule, variance = linear(), 0.01
    prior = GaussianPrior(jnp.zeros((16, 16, 3)), Diagonal(jnp.full((16, 16, 3), variance)), schedule)
    away = 0.3
    found = denoising_error(prior, jnp.stack([jnp.zeros((16, 16, 3)), jnp.full((16, 16, 3), away)]))
    expected = np.zeros(2)
    for t in (20, 50, 100):
        alpha, sigma = map(float, schedule(t))
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        expected += (alpha / sigma) ** 2 * (np.array([0, ((1 - alpha * gain) * away) ** 2]) + (gain * sigma) ** 2) / 3
    np.testing.assert_allclose(found, expected, rtol=3 / (16 * 16 * 3 * NOISE_DRAWS) ** 0.5)


def test_sdedit_from_several_starts(prior, tmp_path, capsys):
    config = sdedit.Starts(
        prior=prior, steps=8, seeds=5, starts=(500, 250, 250), tasks=("box",), references=10, out=tmp_path / "out"
    )
    sdedit.main(config)
    rows = read_rows(config.out)
    assert [(row["start"], row["seed"]) for row in rows] == [(t, s) for t in ("250", "500") for s in "01234"]
    for row in rows:
        assert float(row["distance"]) == pytest.approx(0.05 * float(row["residual_ratio"]), rel=1e-4)
        assert np.isfinite(float(row["realism"]))
    assert read_image(config.out / "curve.png").std() > 0
    assert read_image(config.out / "figure.png").shape[1] > 4 * 128
    assert "realism" in (config.out / "table.md").read_text()
    assert "innermost layer" in (config.out / "report.html").read_text()

    capsys.readouterr()
    sdedit.main(replace(config, resume=True))
    assert capsys.readouterr().out.count("continued from an earlier run") == 2
    assert read_rows(config.out) == rows


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"starts": ()}, "--starts"),
        ({"starts": (250, 1000)}, "from 0 to 999"),
        ({"references": 9}, "--references"),
        ({"tasks": ("boxx",)}, "did you mean 'box'"),
    ],
)
def test_sdedit_refuses_bad_flags_before_it_makes_a_folder(prior, tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        sdedit.main(replace(sdedit.Starts(prior=prior, out=tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()


def test_the_ruler_is_made_of_other_faces_or_beside_a_photo_of_samples(prior, tmp_path, monkeypatch):
    config = sdedit.Starts(prior=prior, face=2, steps=5, out=tmp_path)
    experiment = Experiment(load_prior(prior), jnp.zeros((16, 16, 3)), Console(quiet=True))
    others = realism.reference_faces(config, experiment, 4)
    np.testing.assert_allclose(others[:, 0, 0, 0], [0.0, 0.01, 0.03, 0.04], atol=1e-6)

    def draw(title, run, keys, *args, **kwargs):
        assert isinstance(run.sampler, DDPM)
        assert run.times.tolist() == [999, 749, 500, 250, 0, -1]
        samples = 2 * jax.vmap(lambda key: jax.random.normal(key, (16, 16, 3)))(keys)
        return Drawn(np.asarray(samples), np.zeros((1, 1, 1, 3), np.uint8), Timing(0, 0), False)

    monkeypatch.setattr(realism, "draw", draw)
    samples = realism.reference_faces(replace(config, image=tmp_path / "photo.png"), experiment, 4)
    assert len({np.asarray(sample).tobytes() for sample in samples}) == 4
    assert np.abs(samples).max() == 1


def test_a_panda_beside_a_face(prior, tmp_path):
    config = out_of_distribution.OutOfDistribution(
        prior=prior, steps=8, seeds=5, tasks=("box",), methods=("sdedit",), out=tmp_path / "out"
    )
    out_of_distribution.main(config)
    rows = read_rows(config.out)
    assert [(row["image"], row["method"]) for row in rows] == [
        (image, method) for image in ("face", "red panda") for method in ("one step", "SDEdit") for _ in range(5)
    ]
    assert {row["residual_ratio"] for row in rows if row["method"] == "one step"} == {"n/a"}
    folder = config.out / "samples" / "stranger"
    np.testing.assert_allclose(read_image(folder / "truth.png"), draw_panda(16), atol=1.01 / 255)
    samples = np.load(folder / "samples" / "box_sdedit.npz")["samples"].clip(-1, 1)
    assert float(rows[-1]["std"]) == pytest.approx(samples.std(0).mean(), rel=1e-4)
    assert float(rows[-1]["psnr"]) == pytest.approx(float(psnr(samples[-1], draw_panda(16))), rel=1e-4)
    assert read_image(config.out / "figure.png").shape[0] > 2 * 128
    assert "Denoising error: larger for the red panda" in (config.out / "report.html").read_text()

    # The same two images as files: other names, and the same numbers but for the rounding to 8 bits.
    photos = replace(
        config, image=tmp_path / "animal.png", reference=tmp_path / "face.png", sigma=0.0, out=tmp_path / "photos"
    )
    for name, image in (("animal.png", draw_panda(16)), ("face.png", np.zeros((16, 16, 3), np.float32))):
        write_image(tmp_path / name, image)
    out_of_distribution.main(photos)
    again = read_rows(photos.out)
    assert {row["image"] for row in again} == {"face", "stranger"}
    assert {row["residual_ratio"] for row in again} == {"n/a"}
    in_one_step = [[float(row["psnr"]) for row in run if row["method"] == "one step"] for run in (rows, again)]
    assert in_one_step[1] == pytest.approx(in_one_step[0], abs=0.1)

    write_image(tmp_path / "face.png", np.ones((16, 16, 3), np.float32))
    with pytest.raises(UserError, match=r"other settings .*reference_sha256"):
        out_of_distribution.main(replace(photos, resume=True))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"denoise_at": 1000}, "--denoise-at"),
        ({"steps": 1001}, "--steps"),
        ({"sigma": -1.0}, "--sigma"),
        ({"seeds": 0}, "--seeds"),
        ({"face": -1}, "--face"),
        ({"methods": ("dsp",)}, "did you mean 'dps'"),
    ],
)
def test_out_of_distribution_refuses_bad_flags_before_it_makes_a_folder(prior, tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        out_of_distribution.main(
            replace(out_of_distribution.OutOfDistribution(prior=prior, out=tmp_path / "out"), **changes)
        )
    assert not (tmp_path / "out").exists()


def test_ffhq_needs_a_photo_of_a_face(prior, tmp_path, monkeypatch):
    monkeypatch.setattr(out_of_distribution, "is_ffhq_256", lambda denoiser: True)
    with pytest.raises(UserError, match="--reference must name a photo"):
        out_of_distribution.main(out_of_distribution.OutOfDistribution(prior=prior, out=tmp_path / "out"))
