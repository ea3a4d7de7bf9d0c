"""Photographs restored at their own size by the prior that ships for them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdiff import DDNM, Measurement, load_prior
from jaxdiff.cli.main import main
from jaxdiff.images.fit import CONTEXT, around
from jaxdiff.operators import Identity, Mask
from jaxdiff.priors.denoiser import last_time
from jaxdiff.runs.methods import make_run
from jaxdiff.samplers import DDIM, SDEdit, StartAt


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A photo of odd sides with noise-like texture, and a mask of one thin scratch."""
    monkeypatch.chdir(tmp_path)
    rows, columns = np.mgrid[0:61, 0:43]
    smooth = (
        90
        + 60 * np.sin(rows / 9)[..., None]
        + 50 * np.cos(columns / np.array([7, 8, 9])[:, None, None]).T.swapaxes(0, 1)
    )
    pixels = np.clip(smooth, 0, 255).astype(np.uint8)
    mask = np.zeros((61, 43), np.uint8)
    mask[20:23, 5:38] = 255
    damaged = pixels.copy()
    damaged[mask > 0] = 255
    Image.fromarray(damaged).save("damaged.png", icc_profile=b"profile")
    Image.fromarray(mask).save("mask.png")
    return pixels, mask > 0


def test_a_scratch_is_gone_and_everything_else_is_as_it_was(photo) -> None:
    """Known pixels are the same numbers, the hole is close to the truth, size and profile are kept."""
    pixels, hidden = photo
    main(["restore", "damaged.png", "--mask", "mask.png", "--prior", "photos", "--samples", "2", "--out", "o"])
    for name in ("restored.png", "restored_0.png", "restored_1.png"):
        with Image.open(f"o/{name}") as picture:
            found = np.asarray(picture)
            assert picture.info["icc_profile"] == b"profile"
        np.testing.assert_array_equal(found[~hidden], pixels[~hidden])
        assert np.sqrt(np.mean((found[hidden].astype(float) - pixels[hidden]) ** 2)) < 6


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        (["--task", "deblur", "--motion", "5", "30", "--sigma-steps", "5"], (43, 61)),
        (["--task", "upscale", "--factor", "3"], (129, 183)),
    ],
)
def test_other_tasks_keep_or_multiply_the_size(photo, arguments, size) -> None:
    """No cropping, no resizing; what comes out agrees with what went in."""
    main(["restore", "damaged.png", *arguments, "--samples", "1", "--steps", "4", "--out", "o"])
    with Image.open("o/restored.png") as picture:
        assert picture.size == size
        assert picture.info["icc_profile"] == b"profile"
        reduced = np.asarray(picture.resize((43, 61), Image.Resampling.BICUBIC), float)
    with Image.open("damaged.png") as given:
        blurred = "deblur" in arguments
        assert np.sqrt(np.mean((reduced - np.asarray(given, float)) ** 2)) < (60 if blurred else 12)


def test_a_jpeg_file_is_restored_to_a_picture_it_can_be_of(photo, capsys) -> None:
    """A phone's: stored on its side, with chroma at half the width.

    Its tables are read; the restored picture, compressed again, is nearly the file.
    """
    pixels, _ = photo
    # So that nothing is clipped at black or white.
    exif = Image.Exif()
    exif[0x0112] = 6
    saved = {"quality": 20, "subsampling": "4:2:2"}
    Image.fromarray((60 + pixels * 0.5).astype(np.uint8)).save("photo.jpg", exif=exif, **saved)
    main(["restore", "photo.jpg", "--task", "jpeg", "--samples", "2", "--steps", "4", "--out", "o"])
    assert "JPEG, chroma 4:2:2" in capsys.readouterr().out
    with Image.open("o/restored.png") as picture:
        picture.transpose(Image.Transpose.ROTATE_90).save("again.jpg", **saved)
    first, again = (np.asarray(Image.open(name), float) for name in ("photo.jpg", "again.jpg"))
    assert np.sqrt(np.mean((first - again)[:48, :32] ** 2)) < 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["damaged.png", "--task", "jpeg"], "is no JPEG file"),
        (["inks.jpg", "--task", "jpeg"], "is in CMYK, whose four inks --task jpeg does not know"),
        (["rgb.jpg", "--task", "jpeg"], "keeps red, green and blue"),
        (["damaged.png", "--task", "colourise"], "not enough to colourise"),
        (["damaged.png", "--task", "upscale", "--factor", "5"], "--factor must be 2, 3 or 4"),
        (["damaged.png", "--task", "denoise", "--factor", "3"], "--factor does not belong to --task denoise"),
        (["damaged.png", "--task", "deblur", "--motion", "-1", "0"], "--motion must be a length above 0"),
        (["damaged.png", "--task", "jpeg", "--simulate"], "needs --quality"),
        (["damaged.png", "--task", "jpeg", "--simulate", "--quality", "0"], "--quality must be from 1 to 100"),
        (["damaged.png", "--task", "deblur", "--motion", "300", "0", "--sigma-steps", "1"], "a motion of 300 pixels"),
    ],
)
def test_what_a_task_cannot_be_is_one_sentence(photo, capsys, arguments, sentence) -> None:
    """With exit code 2, and no folder left behind."""
    with Image.open("damaged.png") as picture:
        picture.convert("CMYK").save("inks.jpg")
        picture.convert("RGB").save("rgb.jpg", keep_rgb=True)
    with pytest.raises(SystemExit) as ended:
        main(["restore", *arguments, "--out", "o"])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not Path("o").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("task", [["upscale"], ["jpeg", "--quality", "20"]])
def test_every_damage_can_be_simulated(photo, capsys, task) -> None:
    """The restoration is scored against the picture given."""
    command = ["restore", "damaged.png", "--task", *task, "--simulate", "--sigma-steps", "1", "--samples", "1"]
    main([*command, "--steps", "3", "--out", "o"])
    assert "PSNR" in capsys.readouterr().out
    with Image.open("o/restored.png") as picture:
        assert picture.size == ((42, 60) if task == ["upscale"] else (43, 61))


def test_a_folder_called_photos_is_not_taken_for_the_prior(photo) -> None:
    """The prior's name is a word that users give to folders."""
    Path("photos").mkdir()
    Path("photos/config.json").write_text("{}")
    assert load_prior("photos").any_size


def test_only_what_is_around_the_holes_is_sampled() -> None:
    """The window holds every hidden pixel with its context, and ends at the picture's edges."""
    hidden = np.zeros((400, 900), bool)
    hidden[10:14, 700:720] = True
    window = around(hidden, "photo")
    assert window.kept == (slice(0, 14 + CONTEXT), slice(700 - CONTEXT, 720 + CONTEXT))
    assert window.prior == (14 + CONTEXT, 20 + 2 * CONTEXT)


def test_the_prior_knows_low_noise_only_and_chains_start_there() -> None:
    """At 75 of 255 steps, from an estimate; SDEdit has its own start."""
    prior = load_prior("photos").at((16, 12, 3))
    last = last_time(prior)
    alpha, sigma = prior.schedule(last)
    above = prior.schedule(last + 1)
    assert float(sigma / alpha) / 2 <= 75 / 255 < float(above[1] / above[0]) / 2
    measurement = Measurement(Identity(), jnp.zeros((16, 12, 3)), 0.1)
    run = make_run("ddnm", "denoise", prior, measurement, 100)
    assert isinstance(run.sampler, StartAt)
    assert isinstance(run.sampler.sampler.prior, DDNM)
    assert run.times[0] == last
    assert isinstance(make_run("sdedit", "denoise", prior, measurement, 100).sampler, SDEdit)


def test_the_noise_of_a_picture_one_pixel_wide_cannot_be_estimated(photo, capsys) -> None:
    """One sentence; with the noise level given, it is restored."""
    Image.new("RGB", (1, 9), (9, 99, 200)).save("line.png")
    with pytest.raises(SystemExit) as ended:
        main(["restore", "line.png", "--task", "denoise", "--prior", "photos", "--out", "o"])
    assert ended.value.code == 2
    assert "1x9 pixels cannot be estimated; give it with --sigma." in capsys.readouterr().err
    command = ["restore", "line.png", "--task", "denoise", "--sigma-steps", "10", "--prior", "photos", "--samples", "1"]
    main([*command, "--steps", "20", "--out", "o"])
    with Image.open("o/restored.png") as picture:
        assert picture.size == (1, 9)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["--sigma-steps", "120"], "more noise than the prior"), (["--sigma-steps", "20", "--start", "500"], "0 and 167")],
)
def test_more_noise_than_the_prior_was_trained_for_is_refused(photo, capsys, arguments, sentence) -> None:
    """The network is not asked about it in silence."""
    with pytest.raises(SystemExit) as ended:
        main(["restore", "damaged.png", "--task", "denoise", *arguments, "--prior", "photos", "--out", "o"])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_another_measurement_starts_from_its_own_estimate() -> None:
    """The estimate is derived where a chain starts, so that a compiled program takes any measurement and noise."""
    prior = load_prior("photos").at((16, 12, 3))
    mask = np.ones((16, 12, 1), np.float32)
    mask[4:6] = 0
    start = jax.jit(lambda sampler: sampler.init(jax.random.key(0), 100))
    grey = lambda value, sigma_y: Measurement(Mask(mask), jnp.full((16, 12, 3), value) * mask, sigma_y)
    samplers = [StartAt(DDIM(prior), grey(*numbers)) for numbers in ((0.5, 0.0), (-0.5, 0.0), (-0.5, 0.1))]
    first, other, noisy = map(start, samplers)
    alpha, _ = prior.schedule(100)
    np.testing.assert_allclose(first - other, float(alpha), atol=1e-2)
    np.testing.assert_allclose(first - noisy, float(alpha), atol=1e-2)
