"""Files are whole or not there; a folder is written into by one program and one process, and only its files go."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdiff import disk
from jaxdiff.disk import MANIFEST, WRITTEN, FolderKind, claim_folder, hold_file, new_folder, write_atomically
from jaxdiff.errors import UserError, exit_on_user_error

KIND = FolderKind(("about.json", "data"), "about.json", ("a", "b"))
ONE = '{"a": 1, "b": 2}'


@pytest.fixture(autouse=True)
def no_claims(monkeypatch):
    """Claims last until the process ends; here until the test does."""
    monkeypatch.setattr(disk, "_claimed", {})


def contents(folder: Path) -> dict[str, str]:
    """Every file but the records of claims, by name."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".jaxdiff")]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_written_with_its_folder_and_nothing_beside_it(tmp_path):
    contents_given = {"text": "é", "bytes": "é".encode(), "function": lambda file: file.write("é".encode())}
    for name, content in contents_given.items():
        write_atomically(tmp_path / "new" / "deep" / name, content)
    assert contents(tmp_path) == {f"new/deep/{name}": "é" for name in contents_given}


def test_a_name_at_the_limit_of_the_file_system_can_be_written(tmp_path):
    write_atomically(tmp_path / ("x" * 255), "new")
    assert contents(tmp_path) == {"x" * 255: "new"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_on_a_full_disk_the_old_file_stays_whole(call, tmp_path, monkeypatch, capsys):
    target = tmp_path / "kept.txt"
    target.write_text("old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(SystemExit) as ended, exit_on_user_error(""):
        write_atomically(target, "new")
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {target}: cannot be written: No space left on device.\n"
    assert contents(tmp_path) == {"kept.txt": "old"}


def test_a_writer_that_fails_or_is_interrupted_leaves_the_old_file(tmp_path):
    target = tmp_path / "kept.txt"
    target.write_text("old")

    for fault in (full, lambda: (_ for _ in ()).throw(KeyboardInterrupt)):
        with pytest.raises((OSError, KeyboardInterrupt)):
            write_atomically(target, lambda file, fault=fault: (file.write(b"ne"), fault()))
        assert contents(tmp_path) == {"kept.txt": "old"}


def test_a_folder_takes_its_name_when_the_block_ends(tmp_path):
    with new_folder(tmp_path / "deep" / "out", KIND) as partial:
        (partial / "about.json").write_text(ONE)
        assert not (tmp_path / "deep" / "out").exists()
    assert contents(tmp_path) == {"deep/out/about.json": ONE}


def fill(folder: Path) -> None:
    (folder / "about.json").write_text(ONE)
    (folder / "data").write_text("new")


@pytest.mark.parametrize("fault", ["in the block", "in the middle of the exchange", "a file of the user meanwhile"])
def test_what_was_there_comes_back_if_a_folder_is_not_finished(fault, tmp_path, monkeypatch):
    out, moves = tmp_path / "out", []
    out.mkdir()
    (out / "about.json").write_text(ONE)
    before, move = contents(tmp_path), os.replace

    def second_fails(source, target):
        moves.append(source)
        full() if len(moves) == 2 else move(source, target)

    def write(partial):
        fill(partial)
        if fault == "in the block":
            raise KeyboardInterrupt
        if fault == "in the middle of the exchange":
            monkeypatch.setattr(os, "replace", second_fails)
        else:
            (out / "mine.txt").write_text("mine")
            before["out/mine.txt"] = "mine"

    with pytest.raises((OSError, KeyboardInterrupt)), new_folder(out, KIND, overwrite=True) as partial:
        write(partial)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("files", "overwrite", "sentence"),
    [
        ({"about.json": ONE}, False, "--overwrite"),
        ({"about.json": ONE, "mine": "x"}, True, "holds 'mine', which is not replaced"),
        ({"about.json": '{"a": 1}'}, True, "holds 'about.json'"),
        ({"about.json": "[1"}, True, "holds 'about.json'"),
        ({"about.json": "[]"}, True, "holds 'about.json'"),
        ({"data": "x"}, True, "holds 'data'"),
    ],
)
def test_only_a_folder_of_its_kind_is_replaced(files, overwrite, sentence, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name, text in files.items():
        (out / name).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=sentence), new_folder(out, KIND, overwrite=overwrite) as partial:
        fill(partial)
    assert contents(tmp_path) == before


def test_a_new_an_empty_and_an_own_folder_are_claimed(tmp_path):
    (tmp_path / "empty").mkdir()
    assert not claim_folder(tmp_path / "empty", "one")
    assert not claim_folder(tmp_path / "new" / "deep", "one")
    assert claim_folder(tmp_path / "empty", "one")


def test_a_folder_of_another_program_or_of_the_user_is_refused(tmp_path):
    claim_folder(tmp_path / "one", "one")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / MANIFEST).write_text("[1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for name, sentence in (
        ("one", "holds results of one, not of two"),
        ("broken", "holds results of an unknown program"),
        ("mine", "holds files that are no results of two"),
        ("mine/thesis.tex", "is a file"),
        ("mine/thesis.tex/out", "cannot write to"),
    ):
        with pytest.raises(UserError, match=f"{sentence}.*choose another --out"):
            claim_folder(tmp_path / name, "two", clear=True)
    assert contents(tmp_path) == {"mine/thesis.tex": "x"}


def test_an_input_in_the_folder_is_refused_also_through_a_link(tmp_path):
    out, photo = tmp_path / "out", tmp_path / "out" / "photo.png"
    claim_folder(out, "one")
    photo.write_text("x")
    (tmp_path / "link.png").symlink_to(photo)
    for given in (photo, tmp_path / "link.png"):
        with pytest.raises(UserError, match="lies in the result folder"):
            claim_folder(out, "one", inputs=[None, tmp_path / "absent", given], clear=True)


def test_only_files_on_the_list_are_removed_or_replaced(tmp_path):
    out = tmp_path / "out"
    claim_folder(out, "one")
    for name in ("table.md", "samples/0.png", "samples/deep/1.png"):
        write_atomically(out / name, "x")
    (out / "samples" / "mine.png").write_text("mine")
    with pytest.raises(UserError, match=r"mine\.png was not written by this program, and is not replaced"):
        write_atomically(out / "samples" / "mine.png", "x")
    write_atomically(out / "table.md", "y")
    assert claim_folder(out, "one", clear=True)
    assert contents(out) == {"samples/mine.png": "mine"}
    assert not (out / "samples" / "deep").exists()
    assert not (out / WRITTEN).exists()


def test_a_file_that_another_process_of_the_same_run_has_written_is_replaced(tmp_path):
    claim_folder(tmp_path, "one", shared=True)
    code = f"""
from pathlib import Path
from jaxdiff.disk import claim_folder, write_atomically
claim_folder(Path({str(tmp_path)!r}), "one", shared=True)
write_atomically(Path({str(tmp_path)!r}) / "table.md", "theirs")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    write_atomically(tmp_path / "table.md", "ours")
    assert contents(tmp_path) == {"table.md": "ours"}


def test_a_claim_lasts_as_long_as_its_process(tmp_path):
    code = f"""
from pathlib import Path
from jaxdiff.disk import claim_folder
claim_folder(Path({str(tmp_path)!r}), "one")
print(flush=True)
input()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdin
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(UserError, match="another process writes into"):
            claim_folder(tmp_path, "one", clear=True)
        other.stdin.write("\n")
    assert claim_folder(tmp_path, "one")


def test_where_there_are_no_locks_every_process_may_write(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", full)
    assert not claim_folder(tmp_path / "no locks", "one")
    monkeypatch.setattr(disk, "fcntl", None)
    assert not claim_folder(tmp_path / "windows", "one")
    assert hold_file(0)
