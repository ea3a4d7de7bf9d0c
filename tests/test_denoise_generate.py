"""Tweedie's variance, and the scripts for one-step denoising and for unconditional generation."""

import csv
import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import denoise, generate
from experiments.denoise.levels import Level, markdown, quality, rank_correlation
from jaxdiff import DDIM, DDPM, Denoiser, load_prior, sample_many, time_grid, tweedie_variance
from jaxdiff.images.files import read_image, write_image
from jaxdiff.metrics.pixels import psnr
from jaxdiff.networks.unet import UNetConfig
from jaxdiff.priors.storage import PriorConfig, save_prior
from jaxdiff.errors import UserError
from jaxdiff.runs.runner import sample_keys
from jaxdiff.schedule import linear
from tests.conftest import gaussian_denoiser, random_weights

TINY = UNetConfig(16, 8, (1,), 1, (), num_heads=1, out_channels=6, norm_groups=4)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prior") / "tiny"
    save_prior(folder, random_weights(TINY), PriorConfig(TINY))
    return str(folder)


@pytest.fixture
def photo(tmp_path):
    """Quicker than a face, whose drawing takes longer to compile than all else here."""
    ramp = np.linspace(-0.9, 0.9, 16 * 16 * 3, dtype=np.float32).reshape(16, 16, 3)
    write_image(tmp_path / "photo.png", ramp)
    return tmp_path / "photo.png"


@pytest.fixture(autouse=True)
def no_lpips_weights(tmp_path, monkeypatch):
    """LPIPS weights of whoever runs the tests must not change what they see."""
    for name in ("JAXDIFF_WEIGHTS", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))


estimate_variance = jax.jit(tweedie_variance, static_argnames="num_probes")


@pytest.mark.parametrize("num_probes", [1, 3])
def test_tweedie_variance_is_exact_where_pixels_are_independent(num_probes):
    denoiser = gaussian_denoiser()
    x_t = jax.random.normal(jax.random.key(0), denoiser.image_shape)
    for t in (0, 300, 999):
        alpha_t, sigma_t = denoiser.schedule(t)
        posterior = denoiser.variance * sigma_t**2 / (alpha_t**2 * denoiser.variance + sigma_t**2)
        found = estimate_variance(denoiser, jax.random.key(1), x_t, t, num_probes)
        np.testing.assert_allclose(found, posterior, rtol=1e-5)


def test_tweedie_variance_is_unbiased_with_the_stated_error_and_sees_no_clip():
    shape, t, num_probes = (2, 2, 3), 300, 4000
    matrix = np.random.default_rng(0).normal(size=(12, 12)).astype(np.float32)
    network = lambda x_t, t: (matrix @ x_t.ravel()).reshape(shape)
    denoiser = Denoiser(network, linear(), shape, target="x0", clip=True)
    x_t = 10 * jax.random.normal(jax.random.key(0), shape)
    assert jnp.all(jnp.abs(network(x_t, t)) > 1)
    found = np.ravel(tweedie_variance(denoiser, jax.random.key(1), x_t, t, num_probes))
    alpha_t, sigma_t = denoiser.schedule(t)
    covariance = np.asarray(sigma_t**2 / alpha_t * matrix)
    # The transpose is what the estimate multiplies by.
    rest = (covariance**2).sum(0) - np.diag(covariance) ** 2
    z = (found - np.diag(covariance)) / np.sqrt(rest / num_probes)
    assert np.abs(z).max() < 4
    with pytest.raises(ValueError, match="num_probes"):
        tweedie_variance(denoiser, jax.random.key(1), x_t, t, 0)


def test_denoise_writes_everything_and_goes_on(prior, photo, tmp_path, capsys):
    config = denoise.Denoise(prior=prior, image=photo, times=(300, 50), probes=2, seeds=2, out=tmp_path / "results")
    denoise.main(config)
    with (config.out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["t"], row["seed"]) for row in rows] == [("50", "0"), ("50", "1"), ("300", "0"), ("300", "1")]
    truth = read_image(photo)
    kept = np.load(config.out / "samples" / "t300.npz")
    alpha_t, sigma_t = linear()(300)
    # 768 normal numbers: their mean square is 1 within 5 standard errors of sqrt(2 / 768).
    noise = (kept["x_t"][1] - alpha_t * truth) / sigma_t
    assert abs((noise**2).mean() - 1) < 0.25
    assert float(rows[3]["psnr"]) == pytest.approx(float(psnr(kept["x0_hat"][1], truth)), rel=1e-4)
    assert (kept["variance"][0] != kept["variance"][1]).any()
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
    denoise.main(replace(config, resume=True))
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


def test_generate_cuts_chains_without_changing_them_and_goes_on(prior, tmp_path):
    config = generate.Generate(
        prior=prior, steps=4, ddim_steps=3, snapshots=(300,), seeds=2, batch_size=1, out=tmp_path / "results"
    )
    generate.main(config)
    denoiser, keys = load_prior(prior), sample_keys(0, 2)
    for name, sampler, steps in (("ddpm", DDPM(denoiser), 4), ("ddim", DDIM(denoiser), 3)):
        times = np.unique([*time_grid(1000, steps), 300])[::-1]
        until = times[: list(times).index(300) + 1]
        for stage, part in (("t300", until), ("sample", times)):
            kept = np.load(config.out / "samples" / f"{name}_{stage}.npz")["samples"]
            np.testing.assert_allclose(kept, sample_many(sampler, keys, part, batch_size=1, segment=1), atol=1e-4)
            sample = read_image(config.out / "samples" / f"{name}_{stage}_1.png")
            np.testing.assert_allclose(sample, np.clip(kept[1], -1, 1), atol=1.01 / 255)
        assert (config.out / f"{name}.gif").read_bytes().startswith(b"GIF")
    told = json.loads((config.out / "config.json").read_text())
    assert told["steps"] == {"DDPM": 5, "DDIM": 4}
    assert not {"sigma", "face", "image"} & told["settings"].keys()
    assert (config.out / "report.html").read_text().count("data:image/gif") == 2

    figure = (config.out / "figure.png").read_bytes()
    (config.out / "samples" / "ddim_sample.npz").unlink()
    generate.main(replace(config, resume=True))
    assert (config.out / "figure.png").read_bytes() == figure


@pytest.mark.parametrize(
    ("script", "changes", "match"),
    [
        (denoise, {"times": ()}, "--times"),
        (denoise, {"times": (50, 1000)}, "--times must be .* 0 to 999"),
        (denoise, {"times": (-1,)}, "--times"),
        (denoise, {"probes": 0}, "--probes"),
        (denoise, {"face": -1}, "--face"),
        (generate, {"snapshots": (999,)}, "--snapshots must be .* 0 to 998"),
        (generate, {"snapshots": (-1,)}, "--snapshots"),
        (generate, {"eta": 1.5}, "--eta"),
        (generate, {"ddim_steps": 1001}, "--ddim-steps must be between 1 and 1000"),
        (generate, {"methods": ("ddmp",)}, "did you mean 'ddpm'"),
    ],
)
def test_bad_flags_are_one_sentence_and_leave_nothing(prior, photo, tmp_path, script, changes, match):
    make = partial(denoise.Denoise, image=photo) if script is denoise else generate.Generate
    with pytest.raises(UserError, match=match) as error:
        script.main(make(prior=prior, out=tmp_path / "results", **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results").exists()
