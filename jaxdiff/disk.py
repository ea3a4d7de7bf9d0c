"""Files that are written whole or not at all, and where caches lie."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def write_atomically(path: str | os.PathLike, content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Writes a file that is complete or not there at all; its folder is made if need be.

    Args:
        path: the file.
        content: text, bytes, or a function that writes to an open file.

    Raises:
        OSError: if it cannot be written, with the file's name.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}", str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a folder to write into, which takes its name when the block ends and goes away if it fails.

    Raises:
        FileExistsError: if there is such a folder that is not empty, and `overwrite` is not set.
    """
    path = Path(path).resolve()
    if path.exists() and not overwrite and (path.is_file() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not empty; choose another folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir()
        yield partial
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def cache_folder() -> Path:
    """Returns this package's folder in the user's cache, `$XDG_CACHE_HOME/jaxdiff` or `~/.cache/jaxdiff`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxdiff"
