"""What hurried users do: folders given twice, flags at their limits, interrupts and full memories."""

import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from convert_weights import conversion
from convert_weights.__main__ import main as convert
from jaxdiff import disk
from jaxdiff.chains import archive
from jaxdiff.cli import restore as restoring
from jaxdiff.cli.main import main
from jaxdiff.cli.request import Export, Restore
from jaxdiff.errors import UserError
from jaxdiff.images.files import write_image
from jaxdiff.runs.folder import open_folder, write_npz
from jaxdiff.runs.methods import METHODS, HyperParameters, make_run
from jaxdiff.runs.runner import Drawn, Timing, sample_keys
from tests.conftest import small_problem

ALIASES = (-1, 2**32, 2**63 - 1, 2**63, 10**40)
"""Seeds of which only the last 32 bits would count, or which no generator takes."""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A folder with a picture and its mask, beside an empty folder, which is the working directory."""
    monkeypatch.setattr(disk, "_claimed", {})
    write_image(tmp_path / "photo.png", np.zeros((16, 16, 3), np.float32))
    write_image(tmp_path / "mask.png", np.where(np.eye(16)[..., None] > 0, 1.0, -1.0).astype(np.float32))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path


@pytest.fixture
def nothing_drawn(monkeypatch) -> None:
    """Samples that need no network."""
    drawn = Drawn(
        np.zeros((2, 16, 16, 3), np.float32), np.zeros((1, 16, 32, 3), np.uint8), Timing(0.0, 0.0), resumed=False
    )
    monkeypatch.setattr(restoring, "draw", lambda *arguments, **options: drawn)


def words(command: str, prior: str, *more: str) -> list[str]:
    return [command, "../photo.png", "--mask", "../mask.png", "--prior", prior, "--steps", "2", "--samples", "2", *more]


def ends(arguments: list[str], capsys) -> tuple[object, str]:
    """Runs the command line, and returns exit code and sentence."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1, sentence
    return ended.value.code, sentence


def test_results_are_continued_or_replaced_and_not_both(home, tiny_prior, capsys):
    code, sentence = ends(words("restore", tiny_prior, "--resume", "--overwrite"), capsys)
    assert code == 2
    assert "--resume goes on with results and --overwrite removes them; give one of them" in sentence
    assert not list(Path().iterdir())


def test_the_working_directory_can_be_the_folder(home, tiny_prior, nothing_drawn, capsys):
    """An empty one; what the user puts beside the results stays."""
    main(words("restore", tiny_prior, "--out", "."))
    assert {"config.json", "restored_0.png", "report.html"} <= {path.name for path in Path().iterdir()}
    Path("notes.txt").write_text("mine")
    main(words("restore", tiny_prior, "--out", ".", "--overwrite"))
    assert Path("notes.txt").read_text() == "mine"
    assert "--resume goes on with them" in ends(words("restore", tiny_prior, "--out", "."), capsys)[1]


@pytest.mark.parametrize("there", [False, True], ids=["new", "replaced"])
def test_an_interrupted_export_leaves_nothing_half_written(there, home, tiny_prior, monkeypatch, capsys):
    program = SimpleNamespace(calling_convention_version=9, serialize=lambda: b"program")
    monkeypatch.setattr(archive, "export", lambda *arguments, **options: program)
    command = words("export", tiny_prior, "--out", "exported", "--overwrite")
    if there:
        main(command)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert len(before) == 4 * there

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(archive.np, "savez", interrupted)
    assert ends(command, capsys) == (130, "interrupted; nothing was written.\n")
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert [path.name for path in Path().iterdir()] == ["exported"] * there


@pytest.mark.parametrize("command", [Restore, Export])
@pytest.mark.parametrize("seed", ALIASES)
def test_a_seed_that_would_be_another_is_refused(command, seed):
    with pytest.raises(UserError, match=f"--seed must be between 0 and 4294967295, got {seed}"):
        command(Path("photo.png"), mask=Path("mask.png"), seed=seed).check()


def test_every_seed_has_keys_of_its_own():
    seeds = (0, 1, 2**31, 2**32 - 1)
    for seed in seeds:
        Restore(Path("photo.png"), mask=Path("mask.png"), seed=seed).check()
    keys = [jax.random.key_data(sample_keys(seed, 2)).tolist() for seed in seeds]
    assert len({str(key) for pair in keys for key in pair}) == 2 * len(seeds)


@pytest.mark.parametrize("said", ["", "a batch of 5 chains needs 9 GB; use a batch size of 2."])
def test_a_full_memory_is_a_sentence(said, home, tiny_prior, monkeypatch, capsys):
    def full(*arguments, **options):
        raise MemoryError(*[said] * bool(said))

    monkeypatch.setattr(restoring, "draw", full)
    assert ends(words("restore", tiny_prior), capsys) == (2, f"error: {said or 'out of memory.'}\n")
    monkeypatch.setattr(conversion, "open_checkpoint", full)
    (home / "net.pt").write_bytes(b"PK")
    assert convert(["unet", str(home / "net.pt"), "prior"]) == 2
    assert capsys.readouterr().err == f"error: {said or 'out of memory.'}\n"


DAMAGED = (
    b"",
    b"[]",
    b"{}",
    b"3",
    b'{"settings": []}',
    b'{"settings": null}',
    b'{"settings": [["sigma", 1]]}',
    b"\xff",
)


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_config_is_said_to_be_damaged_and_can_be_replaced(content, home):
    def again(**flags):
        given = {"resume": False, "overwrite": False, **flags}
        open_folder(home / "out", "jaxdiff restore", {"sigma": 1}, command="jaxdiff restore", **given)

    again()
    (home / "out" / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json is damaged; choose another --out, or replace all"):
        again(resume=True)
    again(overwrite=True)
    again(resume=True)


def test_lpips_weights_replace_nothing_of_the_user(home, capsys):
    """Arrays of the user's are an .npz file too."""
    Path("notes.npz").write_text("mine")
    for name, array in (("mine", "data"), ("weights", "conv0/kernel")):
        write_npz(Path(f"{name}.npz"), **{array: np.zeros(3)})
    before = {path: path.read_bytes() for path in Path().iterdir()}
    for name, flags, part in (
        ("notes.npz", ["--overwrite"], "is no file that this command writes"),
        ("mine.npz", ["--overwrite"], "is no file that this command writes"),
        ("weights.npz", [], "exists; choose another name or give --overwrite"),
    ):
        assert convert(["lpips", "vgg.pth", "heads.pth", name, "--net", "vgg", *flags]) == 2
        assert part in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("start", [5000, -5])
def test_a_start_time_that_no_prior_has_is_refused_by_every_method(method, start):
    request = Restore(Path("photo.png"), mask=Path("mask.png"), method=method, start=start)
    if "start" not in METHODS[method].flags:
        with pytest.raises(UserError, match=f"--start belongs to --method sdedit, not to {method}"):
            request.check()
        return
    with pytest.raises(UserError, match=f"start time must be between 0 and 999, got {start}"):
        make_run(method, "inpaint", *small_problem(), 20, HyperParameters(start=start))


@pytest.mark.parametrize("program", [main, convert])
def test_the_name_of_a_file_that_reads_like_a_flag_is_told_apart(home, capsys, program):
    (home / "empty" / "-x.png").write_bytes(b"")
    with pytest.raises(SystemExit) as ended:
        sys.exit(program([{main: "restore", convert: "unet"}[program], "-x.png", "out"]))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: -x.png reads like a flag; ./-x.png names the file.\n"
