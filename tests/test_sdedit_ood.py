"""SDEdit's start times, the ruler of realism, and a red panda among faces."""

import csv
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import out_of_distribution, sdedit
from experiments.panda import draw_panda
from experiments.realism import NOISE_DRAWS, denoising_error, fit_ruler
from jaxdiff import GaussianDenoiser
from jaxdiff.checkpoint import PriorConfig, save_prior
from jaxdiff.images import read_image, write_image
from jaxdiff.runs.errors import UserError
from jaxdiff.schedule import linear
from tests.conftest import random_weights
from tests.test_scripts import TINY


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prior") / "tiny"
    save_prior(folder, random_weights(TINY), PriorConfig(TINY))
    return str(folder)


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
    prior = GaussianDenoiser(jnp.zeros((16, 16, 3)), jnp.full((16, 16, 3), variance), schedule)
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
        prior=prior,
        steps=8,
        seeds=2,
        starts=(500, 250, 250),
        tasks=("box", "blur"),
        references=10,
        out=tmp_path / "out",
    )
    sdedit.main(config)
    rows = read_rows(config.out)
    assert [(row["task"], row["start"], row["seed"]) for row in rows] == [
        (task, start, seed) for task in ("box", "blur") for start in ("250", "500") for seed in "01"
    ]
    for row in rows:
        assert float(row["distance"]) == pytest.approx(0.05 * float(row["residual_ratio"]), rel=1e-4)
        assert np.isfinite(float(row["realism"]))
    assert read_image(config.out / "curve.png").std() > 0
    assert read_image(config.out / "figure.png").shape[1] > 4 * 128
    assert "realism" in (config.out / "table.md").read_text()
    assert "innermost layer" in (config.out / "report.html").read_text()

    capsys.readouterr()
    sdedit.main(replace(config, resume=True))
    assert capsys.readouterr().out.count("continued from an earlier run") == 4
    assert read_rows(config.out) == rows


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"starts": ()}, "--starts"),
        ({"starts": (250, 1000)}, "from 0 to 999"),
        ({"references": 9}, "--references"),
        ({"tasks": ("boks",)}, "did you mean 'box'"),
    ],
)
def test_sdedit_refuses_bad_flags_before_it_makes_a_folder(prior, tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        sdedit.main(replace(sdedit.Starts(prior=prior, out=tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()


def test_realism_beside_a_photo_is_judged_by_samples_of_the_prior(prior, tmp_path):
    write_image(tmp_path / "photo.png", draw_panda(16))
    config = sdedit.Starts(
        prior=prior, image=tmp_path / "photo.png", sigma=0.0, steps=4, seeds=1, starts=(500,), tasks=("box",),
        references=10, out=tmp_path / "out",
    )  # fmt: skip
    sdedit.main(config)
    assert np.load(config.out / "samples" / "references.npz")["samples"].shape == (10, 16, 16, 3)
    assert read_rows(config.out)[0]["residual_ratio"] == "n/a"


def test_a_panda_beside_a_face(prior, tmp_path):
    config = out_of_distribution.OutOfDistribution(
        prior=prior, steps=4, seeds=2, tasks=("box",), methods=("sdedit", "dps"), out=tmp_path / "out"
    )
    out_of_distribution.main(config)
    rows = read_rows(config.out)
    assert [(row["image"], row["method"]) for row in rows] == [
        (image, method) for image in ("face", "red panda") for method in ("one step", "SDEdit", "DPS") for _ in "01"
    ]
    assert {row["residual_ratio"] for row in rows if row["method"] == "one step"} == {"n/a"}
    for folder, image in (("face", None), ("stranger", draw_panda(16))):
        own = config.out / "samples" / folder
        samples = np.load(own / "samples" / "box_dps.npz")["samples"]
        of_dps = [row for row in rows if row["method"] == "DPS" and (row["image"] == "face") == (image is None)]
        assert float(of_dps[0]["std"]) == pytest.approx(np.clip(samples, -1, 1).std(0).mean(), rel=1e-4)
        if image is not None:
            np.testing.assert_allclose(read_image(own / "truth.png"), image, atol=1.01 / 255)
    report = (config.out / "report.html").read_text()
    assert "red panda" in report
    assert read_image(config.out / "figure.png").shape[0] > 2 * 128

    # The same two images as files: another run, the same numbers but for the rounding to 8 bits.
    for folder, name in (("face", "face.png"), ("stranger", "animal.png")):
        (config.out / "samples" / folder / "truth.png").rename(tmp_path / name)
    photos = replace(
        config, image=tmp_path / "animal.png", reference=tmp_path / "face.png", out=tmp_path / "photos", seeds=1
    )
    out_of_distribution.main(photos)
    again = read_rows(photos.out)
    assert {row["image"] for row in again} == {"face", "stranger"}
    first = [float(row["psnr"]) for row in rows if row["seed"] == "0"]
    assert [float(row["psnr"]) for row in again] == pytest.approx(first, abs=0.1)

    write_image(tmp_path / "face.png", -read_image(tmp_path / "face.png"))
    with pytest.raises(UserError, match="other settings .*reference_sha256"):
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
