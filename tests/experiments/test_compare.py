"""The comparison end to end on a tiny prior, and its answers to bad input."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from experiments.compare.__main__ import Compare, main
from jaxdiff import PriorError
from jaxdiff.errors import UserError
from jaxdiff.images.files import read_image, write_image
from jaxdiff.runs.setups import MATCHED_ZETA


@pytest.fixture
def config(normal_prior, photo, tmp_path):
    """A small comparison."""
    return Compare(prior=normal_prior, image=photo, steps=4, seeds=2, out=tmp_path / "results")


def test_compare_writes_everything_and_goes_on(config, read_rows, capsys):
    main(config)
    rows = read_rows(config.out)
    assert {(r["task"], r["method"], r["seed"]) for r in rows} == {
        (t, m, s) for t in ("box", "random", "blur") for m in ("SDEdit", "ScoreALD", "DPS") for s in "01"
    }
    assert all(np.isfinite(float(r["psnr"])) and r["lpips_vgg"] == "n/a" for r in rows)
    assert {r["verdict"] for r in rows} <= {"data ignored", "data over-fitted", "diverged", "healthy"}
    assert {r["verdict"] for r in rows if r["method"] == "SDEdit"} == {"data ignored"}
    written = json.loads((config.out / "config.json").read_text())
    assert written["settings"]["sigma_y"] == {"in [-1, 1] units": 0.05, "in [0, 1] units": 0.025}
    zeta = written["hyper_parameters"]["box inpainting, DPS"]["zeta"]
    assert zeta == pytest.approx(MATCHED_ZETA * 0.75**0.5 * (16 * 16 * 3 / 196608) ** 0.5 * 250)
    assert "fold_in" in written["settings"]["keys"]
    assert written["verdicts"]["box inpainting, SDEdit"]["word"] == "data ignored"
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
        main(config)
    main(replace(config, resume=True))
    assert capsys.readouterr().out.count("continued from an earlier run") == 8
    assert read_rows(config.out) == rows

    with pytest.raises(UserError, match=r"other settings \(sigma, sigma_y\)"):
        main(replace(config, sigma=0.1, resume=True))
    main(replace(config, sigma=0.1, tasks=("box",), methods=("sdedit",), overwrite=True))
    assert len(read_rows(config.out)) == 2


@pytest.mark.thorough
def test_samples_do_not_depend_on_batches_tasks_or_methods(config, tmp_path):
    whole = replace(config, methods=("score-ald", "dps"), seeds=3)
    part = replace(whole, tasks=("blur",), methods=("dps",), batch_size=2, out=tmp_path / "part")
    main(whole)
    main(part)
    one, other = (np.load(c.out / "samples" / "blur_dps.npz")["samples"] for c in (whole, part))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_compare_restores_a_photo_at_another_size(config, tmp_path, capsys):
    wide = np.linspace(-1, 1, 40 * 48 * 3, dtype=np.float32).reshape(40, 48, 3)
    write_image(tmp_path / "wide.png", wide)
    main(replace(config, image=tmp_path / "wide.png", size=24, tasks=("blur",), methods=("score-ald",), seeds=1))
    assert read_image(config.out / "truth.png").shape == (24, 24, 3)
    assert "48x40" in capsys.readouterr().out


def test_a_setting_brings_its_noise_and_methods_that_do_not_suit_are_left_out(config, read_rows, capsys):
    chosen = replace(config, tasks=("phase", "hdr"), methods=("sdedit", "dps"), setting="daps", sigma=0.3, seeds=1)
    main(chosen)
    tried = {(row["task"], row["method"]) for row in read_rows(config.out)}
    assert tried == {("phase", "DPS"), ("hdr", "SDEdit"), ("hdr", "DPS")}
    assert "phase retrieval, SDEdit: left out, as SDEdit cannot be taken: `y` must" in " ".join(
        capsys.readouterr().out.split()
    )
    written = json.loads((config.out / "config.json").read_text())
    assert written["settings"]["sigma_y"]["in [-1, 1] units"] == 0.05
    assert written["operators"]["phase"] == {"setting": "daps"}
    assert read_image(config.out / "phase_measurement.png").shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tasks": ("boxx",)}, "unknown task 'boxx'.*did you mean 'box'"),
        ({"tasks": ()}, "no task given"),
        ({"methods": ("dsp",)}, "did you mean 'dps'"),
        ({"tasks": ("phase",), "methods": ("sdedit",)}, "none of these --methods suits"),
        ({"setting": "dap"}, "did you mean 'daps'"),
        ({"setting": "ddrm"}, "unknown task of ddrm 'box'"),
        ({"setting": "diffpir", "tasks": ("random", "blur")}, "differs between these --tasks"),
        ({"sigma": -0.1}, "--sigma"),
        ({"sigma": float("nan")}, "--sigma"),
        ({"seeds": 0}, "--seeds"),
        ({"steps": 0}, "--steps"),
        ({"steps": 1001}, "between 1 and 1000"),
        ({"batch_size": 0}, "--batch-size"),
        ({"size": 8}, "at least 16"),
        ({"face": -1}, "--face"),
        ({"prior": "nowhere"}, "no prior named"),
        ({"image": "text.png"}, "not an image"),
        ({"image": "absent.png"}, "there is no image"),
        ({"image": "small.png"}, "fewer than"),
        ({"image": "nan.tiff"}, "floats"),
        ({"out": "file/results"}, "Not a directory"),
    ],
)
def test_bad_input_is_one_sentence(config, tmp_path, changes, match):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "file").write_text("")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "small.png")
    Image.fromarray(np.full((32, 32), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    changes = {k: tmp_path / v if k in ("image", "out") else v for k, v in changes.items()}
    with pytest.raises((UserError, PriorError, OSError), match=match) as error:
        main(replace(config, **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results" / "metrics.csv").exists()
