"""The scripts end to end on a tiny prior, and their answers to bad input."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import compare, train_faces
from experiments.shared.problems import held_out_face
from jaxdiff import PriorError, load_prior
from jaxdiff.images.files import read_image, write_image
from jaxdiff.networks.unet import UNetConfig
from jaxdiff.priors.storage import PriorConfig, parameters, save_prior
from jaxdiff.errors import UserError
from tests.conftest import random_weights

ROOT = Path(__file__).parent.parent
TINY = UNetConfig(16, 8, (1, 2), 1, (8,), num_heads=2, out_channels=6, norm_groups=4)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prior") / "tiny"
    save_prior(folder, random_weights(TINY), PriorConfig(TINY))
    return str(folder)


@pytest.fixture(autouse=True)
def no_lpips_weights(tmp_path, monkeypatch):
    """LPIPS weights of whoever runs the tests must not change what they see."""
    for name in ("JAXDIFF_WEIGHTS", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))


def tiny(prior, tmp_path, **changes):
    return replace(compare.Compare(prior=prior, steps=4, seeds=2, out=tmp_path / "results"), **changes)


def read_rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_compare_writes_everything_and_goes_on(prior, tmp_path, capsys):
    config = tiny(prior, tmp_path)
    compare.main(config)
    rows = read_rows(config.out)
    assert {(r["task"], r["method"], r["seed"]) for r in rows} == {
        (t, m, s) for t in ("box", "random", "blur") for m in ("SDEdit", "ScoreALD", "DPS") for s in "01"
    }
    assert all(np.isfinite(float(r["psnr"])) and r["lpips_vgg"] == "n/a" for r in rows)
    assert {r["verdict"] for r in rows} <= {"data ignored", "data over-fitted", "diverged", "healthy"}
    assert {r["verdict"] for r in rows if r["method"] == "SDEdit"} == {"data ignored"}
    told = json.loads((config.out / "config.json").read_text())
    assert told["settings"]["sigma_y"] == {"in [-1, 1] units": 0.05, "in [0, 1] units": 0.025}
    assert told["hyper_parameters"]["box inpainting, DPS"]["zeta"] == pytest.approx((16 * 16 * 3 / 196608) ** 0.5 * 250)
    assert "fold_in" in told["settings"]["keys"]
    assert told["verdicts"]["box inpainting, SDEdit"]["word"] == "data ignored"
    assert "**" in (config.out / "table.md").read_text()
    # A PNG is the clipped sample, not a stretched one.
    sample = np.load(config.out / "samples" / "box_dps.npz")["samples"][1]
    np.testing.assert_allclose(
        read_image(config.out / "samples" / "box_dps_1.png"), np.clip(sample, -1, 1), atol=1.01 / 255
    )
    assert read_image(config.out / "figure.png").shape[1] > 8 * 128
    assert "python -m convert_weights lpips" in " ".join(capsys.readouterr().out.split())

    assert "<html" in (config.out / "report.html").read_text()

    # An interrupted run: one cell is missing. Only that one is drawn again, and the numbers are the same.
    (config.out / "samples" / "blur_dps.npz").unlink()
    with pytest.raises(UserError, match="--resume"):
        compare.main(config)
    compare.main(replace(config, resume=True))
    assert capsys.readouterr().out.count("continued from an earlier run") == 8
    assert read_rows(config.out) == rows

    with pytest.raises(UserError, match=r"other settings \(sigma, sigma_y\)"):
        compare.main(replace(config, sigma=0.1, resume=True))
    compare.main(replace(config, sigma=0.1, tasks=("box",), methods=("sdedit",), overwrite=True))
    assert len(read_rows(config.out)) == 2


def test_samples_do_not_depend_on_batches_tasks_or_methods(prior, tmp_path):
    whole = tiny(prior, tmp_path, tasks=("random", "blur"), methods=("sdedit", "dps"), seeds=3)
    part = replace(whole, tasks=("blur",), methods=("dps",), batch_size=2, out=tmp_path / "part")
    compare.main(whole)
    compare.main(part)
    one, other = (np.load(c.out / "samples" / "blur_dps.npz")["samples"] for c in (whole, part))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_compare_restores_a_photo_at_another_size(prior, tmp_path, capsys):
    write_image(tmp_path / "photo.png", np.asarray(held_out_face(0, 48))[:40])
    compare.main(
        tiny(prior, tmp_path, image=tmp_path / "photo.png", size=24, tasks=("blur",), methods=("score-ald",), seeds=1)
    )
    assert read_image(tmp_path / "results" / "truth.png").shape == (24, 24, 3)
    assert "48x40" in capsys.readouterr().out


def grey_16_bit(path):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tasks": ("boxx",)}, "unknown task 'boxx'.*did you mean 'box'"),
        ({"tasks": ()}, "no task given"),
        ({"methods": ("dsp",)}, "did you mean 'dps'"),
        ({"sigma": -0.1}, "--sigma"),
        ({"sigma": float("nan")}, "--sigma"),
        ({"seeds": 0}, "--seeds"),
        ({"steps": 0}, "--steps"),
        ({"steps": 1001}, "between 1 and 1000"),
        ({"batch_size": 0}, "--batch-size"),
        ({"size": 17}, "multiple of 2"),
        ({"face": -1}, "--face"),
        ({"prior": "nowhere"}, "no prior named"),
        ({"image": "text.png"}, "not an image"),
        ({"image": "absent.png"}, "there is no image"),
        ({"image": "small.png"}, "fewer than"),
        ({"image": "nan.tiff"}, "floats"),
        ({"out": "file/results"}, "Not a directory"),
    ],
)
def test_bad_input_is_one_sentence(prior, tmp_path, changes, match):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "file").write_text("")
    grey_16_bit(tmp_path / "small.png")
    Image.fromarray(np.full((32, 32), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    changes = {k: tmp_path / v if k in ("image", "out") else v for k, v in changes.items()}
    with pytest.raises((UserError, PriorError, OSError), match=match) as error:
        compare.main(replace(tiny(prior, tmp_path), **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results" / "metrics.csv").exists()


def test_a_script_ends_with_code_two_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "experiments.compare", "--sigma", "-1", "--out", str(tmp_path / "out")]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert ended.returncode == 2
    assert ended.stderr.strip() == "error: --sigma must be zero or positive, got -1.0."
    assert not (tmp_path / "out").exists()


def test_training_runs_resumes_and_leaves_a_prior(tmp_path, capsys):
    config = train_faces.Config(
        out=tmp_path / "run", size=16, steps=4, batch_size=4, channels=8, channel_mult=(1, 2), norm_groups=4,
        attention_resolutions=(8,), checkpoint_every=2, sample_every=4, sample_steps=2, variance="learned_range",
    )  # fmt: skip
    train_faces.main(config)
    denoiser: Any = load_prior(tmp_path / "run" / "prior")
    assert (denoiser.target, denoiser.variance, denoiser.image_shape) == ("v", "learned_range", (16, 16, 3))
    assert read_image(tmp_path / "run" / "samples_000004.png").std() > 0
    assert read_image(tmp_path / "run" / "loss.png").min() < 1
    with (tmp_path / "run" / "loss.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["4"]
    train_faces.main(replace(config, steps=6))
    assert "going on from step 4" in capsys.readouterr().out
    longer: Any = load_prior(tmp_path / "run" / "prior")
    new, old = parameters(longer.network), parameters(denoiser.network)
    assert any((new[name] != old[name]).any() for name in new)


def test_training_on_a_folder_reads_and_flips_its_images(tmp_path):
    ramp = np.broadcast_to(np.linspace(-1, 1, 16, dtype=np.float32)[None, :, None], (16, 16, 3))
    write_image(tmp_path / "ramp.png", ramp)
    one = train_faces.image_source(train_faces.Config(data=tmp_path, size=16))
    images = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(0), 16)))
    flipped = np.abs(images - ramp[:, ::-1]).max((1, 2, 3)) < 0.01
    straight = np.abs(images - ramp).max((1, 2, 3)) < 0.01
    assert (flipped ^ straight).all()
    assert 0 < flipped.sum() < 16
    with pytest.raises(UserError, match="no png"):
        train_faces.image_source(train_faces.Config(data=tmp_path / "empty"))
