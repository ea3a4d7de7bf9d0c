"""The evaluation: the same records whoever computes them, whatever was killed, and each of them once."""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float
from scipy import stats

from experiments.evaluate.__main__ import Evaluate, main
from experiments.evaluate.records import Journal, agree, journal_path, open_evaluation, read_entries
from experiments.evaluate.run import draw_images
from experiments.evaluate.table import evaluation_table
from experiments.shared.problems import RANDOM_KEEP, Problem
from jaxdiff import sample_segments
from jaxdiff.errors import UserError
from jaxdiff.images.files import read_image, write_image
from jaxdiff.measurement import measure
from jaxdiff.metrics.diagnosis import Diagnose
from jaxdiff.operators import Blur, RandomMask
from jaxdiff.pytree import pytree
from jaxdiff.runs.methods import make_run
from tests.conftest import SHAPE, SIGMA_Y, gaussian_prior

ROOT = Path(__file__).parents[2]
IMAGES = 4
QUICK = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
# Two programs round differently; another key or measurement would change the first digits.
ROUNDING = {"psnr": 1e-4, "ssim": 1e-5, "residual_ratio": 1e-4}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four images and a twin; one is larger, and one lies in a folder below."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, side in {"a.png": 16, "b.png": 16, "c/d.png": 24, "e.png": 16}.items():
        write_image(folder / name, rng.uniform(-1, 1, (side, side, 3)).astype(np.float32))
    shutil.copy(folder / "b.png", folder / "twin.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def settings(normal_prior, pictures):
    """Flags of a small evaluation."""
    return Evaluate(folder=pictures, prior=normal_prior, steps=3, seeds=2, tasks=("random",), methods=("sdedit",))


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """A run that nothing disturbed."""
    config = replace(settings, out=tmp_path_factory.mktemp("whole") / "results")
    main(config)
    return config


def records(folder):
    """All records by image, task, method and seed; no line of the folder may be there twice."""
    lines = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    assert len({line["sha256"] for line in lines}) == len(lines)
    return {(line["sha256"], r["task"], r["method"], r["seed"]): r for line in lines for r in line["records"]}


def assert_same(folder, config, rounding=ROUNDING):
    found, expected = records(folder), records(config.out)
    assert found.keys() == expected.keys()
    for at, record in expected.items():
        assert {k: found[at][k] for k in ("key", "mask_key", "verdict")} == {
            k: record[k] for k in ("key", "mask_key", "verdict")
        }
        for name, bound in rounding.items():
            assert found[at][name] == pytest.approx(record[name], abs=bound), (at, name)


def copied(config, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(config.out, out)
    return replace(config, out=out)


def run_again(config, capsys):
    capsys.readouterr()
    main(config)
    return capsys.readouterr().out


def test_every_image_is_evaluated_once_and_everything_is_written(whole, read_rows, capsys, tmp_path):
    said = run_again(whole, capsys)
    assert f"{IMAGES} images, {IMAGES} of them in this process, {IMAGES} done before" in said
    assert "1 of 5 images have a twin before them and are left out: twin.png" in said
    assert "1 of 5 images are cut to their middle and resized to 16x16" in said
    rows = read_rows(whole.out)
    assert [row["image"] for row in rows[::2]] == ["a.png", "b.png", "c/d.png", "e.png"]
    assert len(rows) == IMAGES * 2
    # The mean over images of the mean over seeds, with Student's interval.
    of_images = [np.mean([float(row["psnr"]) for row in rows[2 * i : 2 * i + 2]]) for i in range(IMAGES)]
    low, high = stats.t.interval(0.95, 3, np.mean(of_images), stats.sem(of_images))
    text = (whole.out / "table.md").read_text()
    assert f"| SDEdit | {np.mean(of_images):.2f} ± {(high - low) / 2:.2f} |" in text
    assert "4 of 4 images" in text
    assert "missing" not in text
    shutil.copytree(whole.out, tmp_path / "moved")
    (tmp_path / "moved" / "table.md").unlink()
    main(Evaluate(table=True, out=tmp_path / "moved"))
    assert (tmp_path / "moved" / "table.md").read_text() == text


def test_random_numbers_follow_from_pixels_and_seed(whole):
    found = records(whole.out)
    assert len({r["key"] for r in found.values()}) == IMAGES * 2
    assert len({r["mask_key"] for r in found.values()}) == IMAGES
    # What `config.json` says about the keys, done by hand.
    (sha, *_), record = next(iter(found.items()))
    root = jax.random.key(0)
    for word in (sha[:8], sha[8:16]):
        root = jax.random.fold_in(root, jnp.uint32(int(word, 16)))
    key = jax.random.fold_in(jax.random.fold_in(root, 0), 1)
    assert record["mask_key"] == "".join(f"{int(word):08x}" for word in jax.random.key_data(key))
    assert RandomMask(key, (16, 16, 3), RANDOM_KEEP).mask.sum() == 77


@pytree
class Weighed:
    """A measurement that is a vector: as many weighted means as there are columns of weights, every image's own."""

    weights: Float[Array, "d m"]

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, " m"]:
        return x.ravel() @ self.weights


def kernel(image: int) -> np.ndarray:
    """A blur of its own for every image."""
    taps = np.random.default_rng(image).uniform(0.1, 1, (3, 3)).astype(np.float32)
    return taps / taps.sum()


OPERATORS = {
    "mask": lambda k: RandomMask(jax.random.key(k), SHAPE, 0.5),
    "kernel": lambda k: Blur(kernel(k)),
    "vector": lambda k: Weighed(jax.random.normal(jax.random.key(k), (math.prod(SHAPE), 9)) / 9),
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "method"), [("mask", "sdedit"), ("kernel", "dps"), ("vector", "dps-norm")], ids=OPERATORS
)
def test_images_drawn_together_are_what_they_are_alone(name, method):
    prior, steps = gaussian_prior(), 4
    measurements = [
        measure(jax.random.key(k), OPERATORS[name](k), prior.mean + 0.3 * k, SIGMA_Y * (1 + k)) for k in range(2)
    ]
    runs = [make_run(method, "inpaint", prior, measurement, steps) for measurement in measurements]
    keys = [jax.random.split(jax.random.key(k), 2) for k in range(2)]
    problems = [Problem("blur", measurement, {}) for measurement in measurements]
    together = list(draw_images(runs, prior, problems, keys, 3))
    for run, measurement, own, found in zip(runs, measurements, keys, together, strict=True):
        observer = Diagnose(prior.schedule, measurement)
        *_, alone = sample_segments(run.sampler, own, run.times, observer=observer)
        np.testing.assert_allclose(found.samples, alone.state, atol=2e-5)
        for seen, expected in zip(found.diagnosis, alone.seen, strict=True):
            np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-5)


def test_a_torn_line_is_made_again(whole, tmp_path, capsys):
    config = copied(whole, tmp_path)
    path = journal_path(config.out, 0, 1)
    text = path.read_bytes()
    third = len(b"".join(text.splitlines(keepends=True)[:2]))
    path.write_bytes(text[: third + 100])
    # Whoever else reads or tabulates meanwhile leaves the torn line alone.
    main(replace(config, table=True))
    assert "2 of 4 images; 2 still missing" in (config.out / "table.md").read_text()
    assert path.read_bytes() == text[: third + 100]
    assert "2 done before" in run_again(config, capsys)
    assert_same(config.out, whole, dict.fromkeys(ROUNDING, 0))


def test_shards_batches_names_and_order_change_nothing(whole, tmp_path, capsys):
    renamed = tmp_path / "renamed"
    for k, name in enumerate(["e.png", "c/d.png", "b.png", "a.png"]):
        write_image(renamed / f"{k}.png", read_image(whole.folder / name, 16))
    config = replace(whole, folder=renamed, out=tmp_path / "out", batch_size=3, images_at_once=2)
    main(replace(config, shard="1/2"))
    assert "2 of 4 images; 2 still missing" in (config.out / "table.md").read_text()
    # Another number of shards repeats nothing.
    said = run_again(replace(config, shard="0/3"), capsys)
    assert "2 of them in this process, 1 done before" in said
    said = run_again(replace(config, shard="0/2"), capsys)
    assert "still missing" not in said
    assert_same(config.out, whole)
    assert "4 done before" in run_again(replace(config, shard="0/1"), capsys)


def test_nothing_is_compiled_for_a_further_image(settings, tmp_path, monkeypatch, programs):
    """Also where the operator is drawn anew, and for the last, smaller group of images."""
    after, append = [], Journal.append
    monkeypatch.setattr(Journal, "append", lambda *a: (after.append(len(programs)), append(*a)))
    main(replace(settings, limit=3, images_at_once=2, batch_size=3, steps=5, out=tmp_path / "out"))
    assert after == [1, 1]


KILLED = """
import os, signal, sys, tyro
from experiments.evaluate.__main__ import Evaluate, main
from experiments.evaluate.records import Journal
from jaxdiff.metrics import lpips_files
from tests.experiments.conftest import named_normal

append = Journal.append

def append_and_die(journal, entries):
    append(journal, entries)
    os.kill(os.getpid(), signal.SIGKILL)

Journal.append = append_and_die
lpips_files.PACKAGE = "no_such_package"
with named_normal():
    main(tyro.cli(Evaluate))
"""


@pytest.mark.thorough
def test_a_run_killed_at_work_on_two_devices_is_finished_on_one(whole, tmp_path, capsys):
    config = replace(whole, out=tmp_path / "out")
    flags = ["--prior", "normal", "--steps", "3", "--seeds", "2", "--tasks", "random", "--methods", "sdedit"]
    command = [sys.executable, "-c", KILLED, str(config.folder), *flags, "--out", str(config.out)]
    environment = os.environ | QUICK | {"JAX_NUM_CPU_DEVICES": "2"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert "1 done before" in run_again(config, capsys)
    assert_same(config.out, whole)


def test_two_processes_cannot_write_one_file(whole, tmp_path):
    config = copied(whole, tmp_path)
    with Journal(journal_path(config.out, 0, 1)), pytest.raises(UserError, match="another process writes"):
        main(config)
    with Journal(journal_path(config.out, 0, 1)), pytest.raises(UserError, match="another process writes"):
        main(replace(config, overwrite=True))
    assert_same(config.out, whole, dict.fromkeys(ROUNDING, 0))


def test_a_full_disk_loses_nothing(tmp_path):
    path = tmp_path / "results-0-of-1.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(path) as journal:
        journal.append([{"sha256": "a", "records": []}])
        kept = path.read_bytes()
        # Half of the next line fits.
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) + 20, hard))
        try:
            with pytest.raises(UserError, match="all images before this one are kept"):
                journal.append([{"sha256": "b", "records": ["x" * 100]}])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == kept
        journal.append([{"sha256": "b", "records": []}])
    assert list(read_entries(tmp_path)) == ["a", "b"]


def test_many_processes_may_make_the_folder_and_one_set_of_settings_wins(tmp_path):
    refused, start = [], threading.Barrier(8)

    def make(k):
        start.wait()
        try:
            open_evaluation(tmp_path / "out", "program", (), overwrite=False)
            agree(tmp_path / "out", {"steps": k % 2}, "command")
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=make, args=[k]) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 4
    assert all("other settings (steps)" in sentence for sentence in refused)
    assert {"command.txt", "config.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_samples_that_are_not_finite_are_counted_and_left_out():
    record = {"task": "box", "method": "dps", "ssim": 0.5, "lpips_vgg": "n/a", "lpips_alex": "n/a", "seconds": 1.0}
    record |= {"residual_ratio": 1.0, "verdict": "healthy"}
    entries = {str(k): {"records": [record | {"psnr": psnr}]} for k, psnr in enumerate([20.0, 22.0, None])}
    settings = {"num_images": 3, "seeds": 1, "steps": 3, "prior": "p", "dtype": "float32", "sigma": 0.1}
    text = evaluation_table(entries, settings | {"tasks": ["box"], "methods": ["dps"]})
    assert f"| 21.00 ± {stats.t.ppf(0.975, 1):.2f} |" in text
    assert "1 of 3 samples are not finite" in text
    assert "LPIPS" not in text
    assert not math.isnan(float(text.split(" ± ")[2].split()[0]))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"shard": "2/2"}, "--shard must be I/N"),
        ({"shard": "1"}, "--shard must be I/N"),
        ({"shard": "0/2", "overwrite": True}, "--overwrite would remove"),
        ({"steps": 1001}, "between 1 and 1000"),
        ({"sigma": math.nan}, "--sigma"),
        ({"images_at_once": 0}, "--images-at-once"),
        ({"methods": ("dsp",)}, "did you mean 'dps'"),
        ({"folder": Path("nowhere")}, "there is no folder nowhere"),
        ({"folder": ROOT / "tests"}, "no picture"),
        ({"folder": None, "faces": 0}, "--faces"),
        ({"seeds": 3}, r"other settings \(seeds\)"),
        ({"folder": None}, r"other settings \(images_sha256, num_images\)"),
        ({"table": True, "out": Path("nowhere")}, "there is no evaluation in nowhere"),
    ],
)
def test_bad_input_is_one_sentence(whole, changes, match):
    before = sorted(path.name for path in whole.out.iterdir())
    with pytest.raises(UserError, match=match) as error:
        main(replace(whole, **changes))
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in whole.out.iterdir()) == before


def test_a_damaged_picture_is_named(whole, tmp_path):
    folder = tmp_path / "pictures"
    shutil.copytree(whole.folder, folder)
    (folder / "x.png").write_bytes((folder / "a.png").read_bytes()[:200])
    with pytest.raises(UserError, match=r"x\.png is a damaged"):
        main(replace(whole, folder=folder))
    write_image(folder / "x.png", np.zeros((8, 8, 3), np.float32))
    with pytest.raises(UserError, match="fewer than the 16x16"):
        main(replace(whole, folder=folder))
