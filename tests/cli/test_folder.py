"""`jaxdiff restore FOLDER`: every picture, one page, and a bad file that stops nobody."""

import csv

import numpy as np
import pytest
from PIL import Image

from jaxdiff.cli.main import main

FAST = ["--task", "denoise", "--sigma-steps", "20", "--samples", "1", "--steps", "2", "--out", "out"]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of two pictures, a broken one, a note, and a picture deeper down."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    pixels = np.linspace(0, 255, 24 * 20 * 3).astype(np.uint8).reshape(24, 20, 3)
    Image.fromarray(pixels).save(folder / "a [1].png")
    Image.fromarray(pixels[..., 0]).save(folder / "a [1].jpg")
    Image.fromarray(pixels).save(folder / "deeper" / "b.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "note.txt").write_text("mine")
    return folder


def restore(*arguments: str) -> None:
    """Restores a folder in which a picture is broken, which the exit code says at the end."""
    with pytest.raises(SystemExit) as ended:
        main(["restore", "photos", *arguments])
    assert ended.value.code == 2


def rows(folder):
    with (folder / "pictures.csv").open() as file:
        return {row["picture"]: row for row in csv.DictReader(file)}


def test_every_picture_is_restored_and_a_broken_one_is_named(photos, capsys) -> None:
    """The user's files are as they were; the page shows what there is."""
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    restore("--recursive", *FAST)
    out = photos.parent / "out"
    assert set(rows(out)) == {"a [1].png", "a [1].jpg", "deeper/b.png", "broken.png"}
    assert [name for name, row in rows(out).items() if row["error"]] == ["broken.png"]
    said = capsys.readouterr()
    assert "3 of 4 pictures restored" in said.out
    assert said.err == "error: 1 of the 4 pictures in photos could not be restored.\n"
    index = (out / "index.html").read_text()
    for name, row in rows(out).items():
        assert name in index
        assert row["error"] or (out / row["results"] / "restored.png").exists()
    assert before == {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}


@pytest.mark.thorough
def test_an_interrupted_run_goes_on_and_a_finished_one_is_not_replaced(photos, capsys) -> None:
    """The samples that are there are not drawn again."""
    restore(*FAST)
    out = photos.parent / "out"
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("samples.npz")}
    assert len(kept) == 2
    capsys.readouterr()
    restore(*FAST)
    assert "holds results already" in capsys.readouterr().err
    restore(*FAST, "--resume")
    assert kept == {path: path.stat().st_mtime_ns for path in out.rglob("samples.npz")}


@pytest.mark.thorough
def test_masks_are_found_by_name_and_one_serves_all(photos) -> None:
    """In a folder of masks the suffix may be another."""
    masks = photos.parent / "masks"
    masks.mkdir()
    mask = np.zeros((24, 20), np.uint8)
    mask[5:7, 3:12] = 255
    Image.fromarray(mask).save(masks / "a [1].tif")
    Image.fromarray(mask).save(photos.parent / "one.png")
    flags = ["--samples", "1", "--steps", "2"]
    restore("--mask", "masks", *flags, "--out", "own")
    restore("--mask", "one.png", *flags, "--out", "same")
    for out in ("own", "same"):
        errors = {name: bool(row["error"]) for name, row in rows(photos.parent / out).items()}
        assert errors == {"a [1].png": False, "a [1].jpg": False, "broken.png": True}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["photos/deeper/b.png", "--recursive"], "--recursive is for a folder"),
        (["empty"], "there is no picture in empty"),
        (["photos", "--out", "."], "lies in the result folder"),
        (["bad"], "1 of the 1 pictures"),
    ],
)
def test_what_cannot_be_is_one_sentence(photos, capsys, arguments, sentence) -> None:
    """With exit code 2."""
    (photos.parent / "empty").mkdir()
    (photos.parent / "bad").mkdir()
    (photos.parent / "bad" / "x.png").write_bytes(b"")
    with pytest.raises(SystemExit) as ended:
        main(["restore", *arguments[:1], "--task", "denoise", "--sigma-steps", "20", *arguments[1:]])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
