"""A red panda among faces."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.out_of_distribution.__main__ import OutOfDistribution, main
from experiments.out_of_distribution.panda import draw_panda
from jaxdiff.errors import UserError
from jaxdiff.images.files import read_image, write_image
from jaxdiff.metrics.pixels import psnr

pytestmark = pytest.mark.usefixtures("flat_faces")


def test_the_panda_is_the_same_at_every_size_and_russet_cream_and_black():
    small, large = draw_panda(32), draw_panda(64)
    np.testing.assert_allclose(large.reshape(32, 2, 32, 2, 3).mean((1, 3)), small, atol=0.1)
    forehead, cheek, nose = large[22, 32], large[40, 50], large[40, 32]
    assert forehead[0] > forehead[1] + 0.5 > forehead[2] + 0.5
    assert cheek.min() > 0.5
    assert nose.max() < -0.5


@pytest.mark.thorough
def test_a_panda_beside_a_face(normal_prior, tmp_path, read_rows):
    config = OutOfDistribution(
        prior=normal_prior, steps=8, seeds=5, tasks=("box",), methods=("sdedit",), out=tmp_path / "out"
    )
    main(config)
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
    main(photos)
    again = read_rows(photos.out)
    assert {row["image"] for row in again} == {"face", "stranger"}
    assert {row["residual_ratio"] for row in again} == {"n/a"}
    in_one_step = [[float(row["psnr"]) for row in run if row["method"] == "one step"] for run in (rows, again)]
    assert in_one_step[1] == pytest.approx(in_one_step[0], abs=0.1)

    write_image(tmp_path / "face.png", np.ones((16, 16, 3), np.float32))
    with pytest.raises(UserError, match=r"other settings .*reference_sha256"):
        main(replace(photos, resume=True))


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
def test_out_of_distribution_refuses_bad_flags_before_it_makes_a_folder(normal_prior, tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        main(replace(OutOfDistribution(prior=normal_prior, out=tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()


def test_ffhq_needs_a_photo_of_a_face(normal_prior, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.out_of_distribution.__main__.is_ffhq_256", lambda prior: True)
    with pytest.raises(UserError, match="--reference must name a photo"):
        main(OutOfDistribution(prior=normal_prior, out=tmp_path / "out"))
