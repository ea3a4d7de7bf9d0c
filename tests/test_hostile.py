"""Nothing that a user owns is lost: every command that writes, in every folder that is not its own.

A row per command and a column per situation. Each ends with exit code 2 and one sentence, and all files are what they
were. A script that is new fails `test_every_script_has_a_row`.
"""

import fcntl
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import ExifTags, Image

from convert_weights.__main__ import main as convert
from experiments.shared.command import run_script
from jaxdiff.chains.archive import EXPORTED
from jaxdiff.cli.main import main as jaxdiff
from jaxdiff.disk import MANIFEST
from jaxdiff.images.files import write_image
from tests.conftest import TINY
from tests.convert_weights.by_hand import save_checkpoint
from tests.experiments.conftest import named_normal
from tests.golden.make_unet_parity import draw_weights

ROOT = Path(__file__).parent.parent


class Row(NamedTuple):
    """A command.

    Attributes:
        arguments: those that it needs, but for the one that names its folder.
        folder: the flag of the folder; none if it is given by position.
        owner: who a folder belongs to that it has written; none if that shows by its content.
        reads: the flag of a file that it reads; empty if given by position.
        takes: what the file is.
        overwrites: whether it has `--overwrite`.
    """

    arguments: tuple[str, ...] = ()
    folder: str | None = "--out"
    owner: str | None = None
    reads: str | None = None
    takes: str = "photo.png"
    overwrites: bool = True


def script(name: str, *arguments: str, **options) -> Row:
    """A row of `python -m experiments.NAME`."""
    return Row(arguments, **{"owner": f"python -m experiments.{name}", "reads": "--image", **options})


RESTORE = ("--mask", "mask.png", "--prior", "prior", "--steps", "2")
SCRIPTS = {
    "benchmark": script("benchmark", "--alone", "--networks", "tiny", reads=None, overwrites=False),
    "check_prior": script("check_prior", "--prior", "normal", reads="--prior", takes="prior"),
    "compare": script("compare", "--prior", "normal"),
    "denoise": script("denoise", "--prior", "normal"),
    "evaluate": script("evaluate", "--prior", "normal", "--faces", "1", reads="", takes="photos"),
    "generate": script("generate", "--prior", "normal", "--snapshots", "300", reads="--prior", takes="prior"),
    "out_of_distribution": script("out_of_distribution", "--prior", "normal"),
    "photos": script("photos", "--photographs", "hopper", "--trials", "noise-15", "--size", "16", reads=None),
    "posterior": script("posterior", reads=None),
    "precision": script("precision", "--prior", "normal"),
    "sdedit": script("sdedit", "--prior", "normal"),
    "sweep": script("sweep", "--prior", "normal"),
    "train": script("train", "--photos", "photos", reads="--photos", takes="photos", overwrites=False),
    "train_faces": script("train_faces", reads="--data", takes="photos", overwrites=False),
    "verdicts": script("verdicts", reads=None),
}
COMMANDS = {
    "restore": Row(RESTORE, owner="jaxdiff restore", reads=""),
    "export": Row(RESTORE, reads=""),
    "convert convert": Row((), None, reads="", takes="net.pt"),
    "convert unet": Row((), None, reads="", takes="net.pt"),
    "convert ffdnet": Row((), None, reads="", takes="net.pt"),
    "convert download": Row(("ffhq-256", "--url", "http://127.0.0.1:9/x"), None),
    "convert export": Row(("prior",), None),
    "convert lpips": Row(("net.pt", "net.pt", "--net", "vgg"), None),
    **SCRIPTS,
}
REASON = re.compile("choose another|is to be read|another process|no unfinished download")


def test_every_script_has_a_row():
    modules = [path for path in (ROOT / "experiments").rglob("*.py") if "\n    run_script(" in path.read_text()]
    names = {path.parent.name if path.stem == "__main__" else path.stem for path in modules}
    assert names - {"demo"} == set(SCRIPTS), "the demo writes nothing"


@pytest.fixture(scope="module", autouse=True)
def quick_pieces() -> Iterator[None]:
    """A prior, faces and an animal that need no compiling; no compiled programs in the user's cache, one device."""
    flat = lambda index, size: jnp.full((size, size, 3), 0.01 * index)
    with named_normal(), pytest.MonkeyPatch.context() as patch:
        for module in ("shared.problems", "evaluate.images"):
            patch.setattr(f"experiments.{module}.held_out_face", flat)
        patch.setattr("experiments.out_of_distribution.__main__.held_out_face", flat)
        patch.setattr("experiments.out_of_distribution.__main__.draw_panda", lambda size: flat(1, size))
        for module in ("experiments.shared.command", "jaxdiff.runs.platform"):
            patch.setattr(f"{module}.prepare", lambda **chosen: None)
        yield


@pytest.fixture
def home(tmp_path, tiny_prior, monkeypatch, no_lpips_weights) -> Path:
    """A user's folder with photos, a prior, a checkpoint, and notes; the working directory."""
    picture = np.linspace(-0.9, 0.9, 16 * 16 * 3, dtype=np.float32).reshape(16, 16, 3)
    home = tmp_path / "home"
    for name in ("photo.png", "photos/one.png", "mine/mean.png", "mine/samples/sample_0.png", "mine/prior/face.png"):
        write_image(home / name, picture)
    mask = np.full((16, 16, 3), -1, np.float32)
    mask[4:8, 4:8] = 1
    write_image(home / "mask.png", mask)
    (home / "net.pt").write_bytes(b"PK\x03\x04 weights")
    (home / "notes.txt").write_text("mine")
    (home / "mine" / "config.json").write_text("{}")
    shutil.copytree(tiny_prior, home / "prior")
    monkeypatch.chdir(home)
    return home


def run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """Runs a command in this process, and returns its exit code."""
    try:
        if name.startswith("convert "):
            return convert([*name.split()[1:], *arguments])
        if name in SCRIPTS:
            places = (f"experiments.{name}", f"experiments.{name}.__main__")
            source = ROOT / "experiments" / f"{name}.py"
            module = import_module(places[0] if source.exists() else places[1])
            config = re.search(r"run_script\(main, (\w+)", Path(str(module.__file__)).read_text())
            assert config is not None
            monkeypatch.setattr(sys, "argv", [name, *arguments])
            run_script(module.main, getattr(module, config[1]), None)
        else:
            jaxdiff([name, *arguments])
    except SystemExit as end:
        return end.code
    return 0


def told(row: Row, out: str, *more: str, reads: str | None = None) -> list[str]:
    """Returns the arguments of a command that writes to `out` and reads `reads`."""
    words = list(row.arguments)
    if row.reads == "":
        words = [reads or row.takes, *words]
    elif row.reads and reads:
        words += [row.reads, reads]  # of a flag that is given twice the last counts
    place = [out] if row.folder is None else [row.folder, out]
    return [*words, *place, *more]


def contents(folder: Path) -> dict[str, str]:
    """Returns a digest of every file, by name."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


@contextmanager
def refused(home: Path, capsys: pytest.CaptureFixture) -> Iterator[list]:
    """Checks that what is run ends with code 2 and one sentence, and that no file came, went or changed."""
    before, codes = contents(home), []
    capsys.readouterr()
    yield codes
    sentence = capsys.readouterr().err.strip()
    assert codes == [2], sentence
    assert sentence.startswith("error: "), sentence
    assert "\n" not in sentence
    assert REASON.search(sentence), sentence
    assert contents(home) == before


OUTS = {"files of the user": "mine", "a file": "notes.txt", "here": "."}


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True], ids=["", "overwrite"])
@pytest.mark.parametrize("out", OUTS.values(), ids=OUTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_of_the_user_is_left_alone(name, out, overwrite, home, monkeypatch, capsys):
    row = COMMANDS[name]
    if overwrite and not row.overwrites:
        return
    with refused(home, capsys) as codes:
        codes.append(run(name, told(row, out, *["--overwrite"] * overwrite), monkeypatch))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, row in COMMANDS.items() if row.reads is not None])
def test_what_is_read_is_not_in_what_is_written(name, home, monkeypatch, capsys):
    """Also in a folder of the command's own, which `--overwrite` would replace."""
    row = COMMANDS[name]
    own, inside = home / "own", home / "own" / row.takes
    if name == "export":
        own.mkdir()
        for part in EXPORTED.parts:
            (own / part).write_text(json.dumps(dict.fromkeys(EXPORTED.keys)))
    elif row.owner is None:
        shutil.copytree(home / "prior", own)
    else:
        own.mkdir()
        (own / MANIFEST).write_text(json.dumps({"program": row.owner}))
    copy = shutil.copytree if (home / row.takes).is_dir() else shutil.copy
    copy(home / row.takes, inside)
    with refused(home, capsys) as codes:
        codes.append(run(name, told(row, "own", *["--overwrite"] * row.overwrites, reads=str(inside)), monkeypatch))


@pytest.mark.parametrize("name", [name for name, row in COMMANDS.items() if row.owner and name != "evaluate"])
def test_the_second_process_in_a_folder_gets_a_sentence(name, home, monkeypatch, capsys):
    """Evaluations alone share their folder; `test_evaluate` tries that."""
    row = COMMANDS[name]
    (home / "own").mkdir()
    (home / "own" / MANIFEST).write_text(json.dumps({"program": row.owner}))
    with (home / "own" / f"{MANIFEST}.lock").open("w") as lock, refused(home, capsys) as codes:
        fcntl.flock(lock, fcntl.LOCK_EX)
        codes.append(run(name, told(row, "own", *["--overwrite"] * row.overwrites), monkeypatch))


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "restore" and COMMANDS[name].owner])
def test_results_of_another_command_are_left_alone(name, home, monkeypatch, capsys):
    row = COMMANDS[name]
    (home / "own").mkdir()
    (home / "own" / MANIFEST).write_text(json.dumps({"program": "jaxdiff restore"}))
    (home / "own" / ".jaxdiff-files").write_text("config.json\n")
    (home / "own" / "config.json").write_text(json.dumps({"settings": {}}))
    with refused(home, capsys) as codes:
        codes.append(run(name, told(row, "own", *["--overwrite"] * row.overwrites), monkeypatch))


def test_a_download_goes_on_with_no_file_of_the_user(home, monkeypatch, capsys):
    (home / "priors.pt.part").write_text("my notes on parts")
    with refused(home, capsys) as codes:
        codes.append(run("convert download", told(COMMANDS["convert download"], "priors"), monkeypatch))


def camera_files(home: Path) -> None:
    """What a hurried user keeps in one folder: photos of many kinds, masks, and files that are named like results."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 16, 4), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels[..., :3]).save(home / "naïve [1].jpg", exif=exif)
    Image.fromarray(pixels).save(home / "cut-out.png")
    Image.fromarray(rng.integers(0, 2**16, (16, 16), np.uint16)).save(home / "scan.tif")
    for name in ("restored.png", "restored_0.png", "report.html", "std.png", "-out.png"):
        (home / name).write_bytes(b"mine")
    (home / "album").mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(home / "photo.png", home / "album" / name)
    (home / "album" / "broken.png").write_bytes(b"\x89PNG")
    save_checkpoint(home / "trained.pt", draw_weights(TINY))


AFTERNOON: list[tuple[str, str, int, int]] = [
    ("restore", "photo.png --mask mask.png --prior prior --steps 2 --samples 1 --out first", 0, 2),
    ("restore", "photo.png --mask mask.png --prior prior --steps 2 --samples 1 --out first --resume", 0, 0),
    ("restore", "photo.png --mask mask.png --prior prior --steps 2 --samples 1 --out first --overwrite", 0, 0),
    ("restore", "photo.png --mask mask.png --prior prior --steps 2 --samples 1 --out . --overwrite", 2, 2),
    ("restore", "scan.tif --mask mask.png --steps 2 --samples 1 --out grey", 0, 2),
    ("restore", "cut-out.png --mask mask.png --steps 2 --samples 1 --out alpha --overwrite", 0, 0),
    ("restore", "naïve [1].jpg --mask mask.png --steps 2 --samples 1", 0, 2),
    ("restore", "album --mask mask.png --steps 2 --samples 1 --out restored-album", 2, 2),
    ("restore", "album --mask mask.png --steps 2 --samples 1 --out album", 2, 2),
    ("restore", "missing.png --mask mask.png --out nothing", 2, 2),
    ("restore", "restored.png --mask mask.png --out nothing", 2, 2),
    ("restore", "-out.png --mask mask.png --out nothing", 2, 2),
    ("convert unet", "-out.png nothing", 2, 2),
    ("compare", "--image -out.png --out nothing", 2, 2),
    ("export", "photo.png --mask mask.png --prior prior --steps 2 --out program", 0, 2),
    ("convert unet", "trained.pt mine --config prior --overwrite", 2, 2),
    ("convert unet", "trained.pt converted --config prior", 0, 2),
    ("convert unet", "trained.pt converted --config prior --overwrite", 0, 0),
    ("convert unet", "net.pt broken", 2, 2),
    ("restore", "photo.png --mask mask.png --prior converted --steps 2 --samples 1 --out second", 0, 2),
    ("generate", "--prior prior --snapshots 300 --steps 3 --seeds 1 --out faces", 0, 2),
    ("compare", "--prior prior --image photo.png --tasks box --methods dps --steps 3 --seeds 1 --out table", 0, 2),
    ("compare", "--prior prior --image photo.png --tasks box --methods dps --steps 3 --seeds 1 --out first", 2, 2),
    ("info", "", 0, 0),
    ("list", "", 0, 0),
]
"""Commands, and their exit codes when they are given first and a second time. A picture of the album is broken."""


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::jaxdiff.images.opening.PictureWarning")
def test_an_afternoon_with_photos_priors_and_results_in_one_folder(home, monkeypatch, capsys):
    """Every command is given twice; none changes, adds or removes a file of the user."""
    camera_files(home)
    mine = contents(home)
    for name, words, *expected in AFTERNOON:
        arguments = [word.replace("_", " ") for word in words.replace("naïve [1]", "naïve_[1]").split()]
        for code in expected:
            assert run(name, arguments, monkeypatch) == code, (name, words, capsys.readouterr())
            there = contents(home)
            assert mine.items() <= there.items(), (name, words)
    folders = {path.split("/")[0] for path in there.keys() - mine.keys()}
    results = {
        "first",
        "second",
        "grey",
        "alpha",
        "results",
        "restored-album",
        "program",
        "converted",
        "faces",
        "table",
    }
    assert folders == results
