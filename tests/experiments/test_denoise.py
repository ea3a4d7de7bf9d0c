"""One-step denoising: the script, and how good it finds predicted errors."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.denoise.__main__ import Denoise, main
from experiments.denoise.levels import Level, quality, rank_correlation
from jaxdiff.errors import UserError
from jaxdiff.images.files import read_image
from jaxdiff.metrics.pixels import psnr
from jaxdiff.runs.tables import markdown
from jaxdiff.schedule import linear


@pytest.mark.thorough
def test_denoise_writes_everything_and_goes_on(normal_prior, photo, tmp_path, read_rows, capsys):
    config = Denoise(prior=normal_prior, image=photo, times=(300, 50), probes=2, seeds=2, out=tmp_path / "results")
    main(config)
    rows = read_rows(config.out)
    assert [(row["t"], row["seed"]) for row in rows] == [("50", "0"), ("50", "1"), ("300", "0"), ("300", "1")]
    truth = read_image(photo)
    kept = np.load(config.out / "samples" / "t300.npz")
    alpha_t, sigma_t = linear()(300)
    # 768 normal numbers: their mean square is 1 within 5 standard errors of sqrt(2 / 768).
    noise = (kept["x_t"][1] - alpha_t * truth) / sigma_t
    assert abs((noise**2).mean() - 1) < 0.25
    assert float(rows[3]["psnr"]) == pytest.approx(float(psnr(kept["x0_hat"][1], truth)), rel=1e-4)
    # Exact for a standard normal prior: a pixel keeps sigma_t^2 of its variance.
    np.testing.assert_allclose(kept["variance"], sigma_t**2, rtol=1e-4)
    for name in ("figure.png", "samples/t50_noisy_1.png", "samples/t300_denoised_0.png", "truth.png"):
        assert read_image(config.out / name).std() > 0
    page = (config.out / "report.html").read_text()
    assert "data:image/gif" in page
    assert "true / predicted" in page
    assert "27.36 ±" not in page
    assert "noise_keys" in json.loads((config.out / "config.json").read_text())

    # An interrupted run: one time is missing, the other is not made again.
    (config.out / "samples" / "t50.npz").unlink()
    made = (config.out / "samples" / "t300.npz").stat().st_mtime_ns
    before, _ = (config.out / "metrics.csv").read_text(), capsys.readouterr()
    main(replace(config, resume=True))
    assert (config.out / "metrics.csv").read_text() == before
    assert (config.out / "samples" / "t300.npz").stat().st_mtime_ns == made
    assert "report.html" in capsys.readouterr().out


def test_predicted_errors_of_the_right_size_have_ratio_one():
    std = np.linspace(0.05, 0.3, 16 * 16, dtype=np.float32).reshape(16, 16, 1) * np.ones(3, np.float32)
    errors = std * np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    truth = np.zeros((16, 16, 3), np.float32)
    level = Level(300, 1.0, truth, errors, errors, np.broadcast_to(std**2, errors.shape))
    level = replace(level, rows=level.scores({}))
    # 1536 squared normal numbers of unequal weight: a standard error of about 0.025.
    assert level.ratio == pytest.approx(1, abs=0.1)
    too_sure = replace(level, variance=level.variance / 4)
    assert replace(level, rows=too_sure.scores({})).ratio == pytest.approx(2 * level.ratio)
    assert 0.4 < float(level.rows[0]["rank_correlation"]) < 1
    assert rank_correlation(*level.maps(0)[::-1]) == pytest.approx(float(level.rows[0]["rank_correlation"]))
    assert rank_correlation(np.ones((4, 4)), np.eye(4)) == "n/a"
    assert "27.36 ± 0.18" in markdown(quality([level], published=True))
    assert "27.36" not in markdown(quality([level], published=False))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"times": ()}, "--times"),
        ({"times": (50, 1000)}, "--times must be .* 0 to 999"),
        ({"times": (-1,)}, "--times"),
        ({"probes": 0}, "--probes"),
        ({"face": -1}, "--face"),
    ],
)
def test_bad_flags_are_one_sentence_and_leave_nothing(normal_prior, photo, tmp_path, changes, match):
    with pytest.raises(UserError, match=match) as error:
        main(Denoise(prior=normal_prior, image=photo, out=tmp_path / "results", **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results").exists()
