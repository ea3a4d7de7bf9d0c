"""What an evaluation has found so far: appended image by image, by many processes, whatever ends them.

A line of `results-I-of-N.jsonl` holds all records of one image, so that an image is there as a whole or not at all.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from jaxdiff.disk import claim_folder, hold_file, record_written, write_atomically
from jaxdiff.errors import UserError

Entry = dict[str, Any]
"""One image: its name, the digest of its pixels, and its records."""

PATTERN = "results-*.jsonl"


class Journal:
    """The file of one process, held while it is open.

    Args:
        path: the file; what a killed process has left of a last line is cut off.

    Raises:
        UserError: if another process holds it.
    """

    def __init__(self, path: Path):
        self.path = path
        record_written(path)
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if not hold_file(self.file):
            os.close(self.file)
            raise UserError(f"another process writes to {path}; wait for its end, or take another --shard.")
        os.ftruncate(self.file, path.read_bytes().rfind(b"\n") + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.file)

    def append(self, entries: Sequence[Entry]) -> None:
        """Adds images, on the disk when this returns.

        Raises:
            UserError: if there is no room; nothing is added then.
        """
        data = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries).encode()
        size = os.fstat(self.file).st_size
        try:
            rest = data
            while rest:
                rest = rest[os.write(self.file, rest) :]
            os.fsync(self.file)
        except OSError as error:
            os.ftruncate(self.file, size)
            raise UserError(
                f"{self.path} cannot be written: {error.strerror}; all images before this one are kept, and the same "
                "command goes on with it once there is room."
            ) from error


def journal_path(folder: Path, index: int, count: int) -> Path:
    """Returns the file of a shard."""
    return folder / f"results-{index}-of-{count}.jsonl"


def read_entries(folder: Path) -> dict[str, Entry]:
    """Reads what all processes have found, by the digest of the image; a line that is not whole counts as missing."""
    found: dict[str, Entry] = {}
    for path in sorted(folder.glob(PATTERN)):
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                entry = json.loads(line)
                found.setdefault(entry["sha256"], entry)
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
    return found


def agree(folder: Path, settings: Mapping[str, Any], command: str) -> None:
    """Makes a result folder, or finds one of the same settings; many processes may do so at once.

    Args:
        folder: where to.
        settings: everything that decides the numbers.
        command: what makes these results again.

    Raises:
        UserError: if the folder cannot be written to, or holds results of other settings.
    """
    settings = json.loads(json.dumps(settings, default=str))
    config = folder / "config.json"
    try:
        # In this order: whoever writes results has written the settings before.
        if any(folder.glob(PATTERN)) and not config.exists():
            raise UserError(f"{folder} holds results without config.json; replace them with --overwrite.")
        text = json.dumps({"settings": settings}, indent=2) + "\n"
        record_written(config)
        if not config.exists() and _write_first(config, text):
            write_atomically(folder / "command.txt", command + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --out.") from error
    there = read_settings(folder)
    others = sorted(name for name in {*there, *settings} if there.get(name) != settings.get(name))
    if others:
        raise UserError(
            f"{folder} holds results of other settings ({', '.join(others)}); repeat the command in "
            f"{folder / 'command.txt'}, choose another --out, or replace them with --overwrite."
        )


def read_settings(folder: Path) -> dict[str, Any]:
    """Reads the settings of an evaluation.

    Raises:
        UserError: if there are none, or they are damaged.
    """
    config = folder / "config.json"
    try:
        return dict(json.loads(config.read_text())["settings"])
    except FileNotFoundError as error:
        raise UserError(f"there is no evaluation in {folder}; choose another --out.") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{config} is damaged; choose another --out, or replace all with --overwrite.") from error


def open_evaluation(folder: Path, program: str, inputs: Sequence[Path | None], overwrite: bool) -> None:
    """Makes sure that the folder is the script's, and removes an earlier evaluation if asked to.

    Raises:
        UserError: if the folder is another's, or a process is at work on what is to be removed.
    """
    claim_folder(folder, program, inputs=inputs, shared=True)
    if overwrite:
        for path in sorted(folder.glob(PATTERN)):
            Journal(path).__exit__()
        claim_folder(folder, program, shared=True, clear=True)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Waits until a file is free, and holds it in the block."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        hold_file(file, wait=True)
        yield
    finally:
        os.close(file)


def _write_first(path: Path, text: str) -> bool:
    """Writes a file that is complete from the start, unless somebody else was first; returns who was."""
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    own = Path(name)
    try:
        with os.fdopen(number, "w") as file:
            file.write(text)
        own.chmod(0o644)
        try:
            os.link(own, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            own.replace(path)
        return True
    finally:
        own.unlink(missing_ok=True)
