"""Files that are written whole or not at all, folders that may be written into, and where caches lie.

A folder that a command writes is claimed first: it must be new, empty, or of the same kind. It holds a list of the
files that were written into it, and nothing else in it is ever replaced or removed.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from jaxdiff.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes from one folder
    fcntl = None

MANIFEST = ".jaxdiff.json"
"""In every claimed folder: which program it belongs to."""

WRITTEN = ".jaxdiff-files"
"""In every claimed folder: a line for every file written into it."""

_claimed: dict[Path, "_Claim"] = {}


def write_atomically(path: str | os.PathLike, content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Writes a file that is complete or not there at all; its folder is made if need be.

    Args:
        path: the file.
        content: text, bytes, or a function that writes to an open file.

    Raises:
        OSError: if it cannot be written, with the file's name.
        UserError: if it would replace a file in a claimed folder that was not written by its program.
    """
    path = Path(path)
    record_written(path)
    partial = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode(errors="surrogateescape") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}", str(path)) from error
    finally:
        with suppress(OSError):  # of the two errors the first says more
            partial.unlink(missing_ok=True)


class FolderKind(NamedTuple):
    """How a folder that was written as a whole is known again.

    Attributes:
        parts: names of what it may hold.
        description: the part that describes it, a JSON object.
        keys: what the description has at least.
    """

    parts: tuple[str, ...]
    description: str
    keys: tuple[str, ...]

    def is_one(self, path: Path) -> bool:
        """Tells whether a folder is of this kind."""
        try:
            found = json.loads((path / self.description).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(found, dict) and all(key in found for key in self.keys)


@contextmanager
def new_folder(path: str | os.PathLike, kind: FolderKind, *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a folder to write into, which takes its name when the block ends and goes away if it fails.

    Args:
        path: the folder.
        kind: what is written; only a folder of this kind with nothing else in it is replaced.
        overwrite: replace a folder of this kind.

    Raises:
        FileExistsError: if there is something of that name that may not be replaced.
    """
    path = Path(path).resolve()
    check_replaceable(path, kind, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:8]}.{end}") for end in ("partial", "old"))
    try:
        partial.mkdir()
        yield partial
        # Again, as the block may have taken minutes.
        check_replaceable(path, kind, overwrite)
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)


def check_replaceable(path: Path, kind: FolderKind, overwrite: bool) -> None:
    """Refuses a folder that `new_folder` would not replace.

    Raises:
        FileExistsError: if there is something of that name that may not be replaced.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise FileExistsError(f"{path} is a file; choose another folder.")
    found = sorted(entry.name for entry in path.iterdir())
    foreign = [name for name in found if name not in kind.parts or not kind.is_one(path)]
    if foreign:
        raise FileExistsError(f"{path} holds {foreign[0]!r}, which is not replaced; choose another folder.")
    if found and not overwrite:
        raise FileExistsError(f"{path} exists and is not empty; choose another folder, or --overwrite.")


class _Claim:
    """A folder that this process writes into."""

    def __init__(self, path: Path, lock: IO[str] | None):
        self.path, self.lock = path, lock
        self.files = self._read()

    def _read(self) -> set[str]:
        listing = self.path / WRITTEN
        return set(listing.read_text(encoding="utf-8").splitlines()) if listing.exists() else set()

    def record(self, path: Path) -> None:
        name = path.relative_to(self.path).as_posix()
        if name in self.files:
            return
        if path.exists() and name not in self._read():  # another process of the same run may have written it
            raise UserError(f"{path} was not written by this program, and is not replaced; choose another --out.")
        with (self.path / WRITTEN).open("a", encoding="utf-8") as file:
            file.write(name + "\n")
        self.files.add(name)

    def clear(self) -> None:
        for name in sorted(self.files, reverse=True):
            file = self.path / name
            file.unlink(missing_ok=True)
            for folder in file.parents:
                if folder == self.path or not folder.is_dir() or any(folder.iterdir()):
                    break
                folder.rmdir()
        (self.path / WRITTEN).unlink(missing_ok=True)
        self.files = set()


def record_written(path: Path) -> None:
    """Adds a file that is about to be written to the list of the claimed folder that it is in, if it is in one.

    Raises:
        UserError: if there is a file of this name that is not in the list.
    """
    path = path.parent.resolve() / path.name
    for folder in (parent for parent in path.parents if parent in _claimed):
        _claimed[folder].record(path)
        return


def claim_folder(
    path: Path, program: str, *, inputs: Iterable[Path | None] = (), clear: bool = False, shared: bool = False
) -> bool:
    """Makes sure that a folder may be written into by this program, until the process ends.

    Args:
        path: the folder; made if need be.
        program: whose folder it is, such as "jaxdiff restore".
        inputs: files that the program reads, none of which may lie in the folder.
        clear: remove what an earlier run of this program has written into it, and nothing else.
        shared: whether other processes may write into it at the same time.

    Returns:
        Whether there was an earlier run.

    Raises:
        UserError: if the folder holds other files or another program's results, an input lies in it, another process
            writes into it, or it cannot be written to.
    """
    given, path = path, path.resolve()
    for file in inputs:
        if file is not None and file.exists() and file.resolve().is_relative_to(path):
            raise UserError(f"{file} lies in the result folder {given}; choose another --out.")
    manifest = path / MANIFEST
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"{given} is a file; choose another --out.")
        # In this order: another process of the same run writes the manifest before anything else.
        holds = path.exists() and any(not entry.name.startswith(".jaxdiff") for entry in path.iterdir())
        known = manifest.is_file()
        if holds and not known:
            raise UserError(f"{given} holds files that are no results of {program}; choose another --out.")
        if known and (owner := _owner(manifest)) != program:
            raise UserError(f"{given} holds results of {owner}, not of {program}; choose another --out.")
        path.mkdir(parents=True, exist_ok=True)
        if path not in _claimed or not known:
            _claimed[path] = _Claim(path, None if shared else _lock(path))
        if not known:
            partial = path / f"{MANIFEST}.{uuid.uuid4().hex[:8]}.partial"
            partial.write_text(json.dumps({"program": program}) + "\n", encoding="utf-8")
            os.replace(partial, manifest)
    except OSError as error:
        raise UserError(f"cannot write to {given}: {error.strerror or error}; choose another --out.") from error
    if clear:
        _claimed[path].clear()
    return known


def release_folder(path: Path) -> None:
    """Lets other processes write into a claimed folder again; nothing happens if it is not claimed."""
    claim = _claimed.pop(path.resolve(), None)
    if claim is not None and claim.lock is not None:
        claim.lock.close()


def _owner(manifest: Path) -> str:
    try:
        return str(json.loads(manifest.read_text(encoding="utf-8"))["program"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "an unknown program"


def _lock(path: Path) -> IO[str] | None:
    if fcntl is None:
        return None
    file = (path / f"{MANIFEST}.lock").open("w")
    if not hold_file(file.fileno()):
        file.close()
        raise UserError(f"another process writes into {path}; wait for its end, or choose another --out.")
    return file


def hold_file(file: int, *, wait: bool = False) -> bool:
    """Holds an open file, by its number, until it is closed, or waits until that is possible.

    Returns:
        Whether this process holds the file; where a file system has no locks, all may.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def cache_folder() -> Path:
    """Returns this package's folder in the user's cache, `$XDG_CACHE_HOME/jaxdiff` or `~/.cache/jaxdiff`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxdiff"
