"""Download a checkpoint over HTTP, in a way that survives interruptions.

The bytes go to `PATH.part`. A later call continues where that file ends, if the server can; the
file gets its name only when its size is right, so a file called `PATH` is always whole.
"""

import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from jaxdiff.disk import hold_file

CHUNK_BYTES = 2**18
TIMEOUT_SECONDS = 30.0


Progress = Callable[[int, int | None], None]


def download(
    url: str,
    path: str | Path,
    size: int | None = None,
    min_size: int = 0,
    progress: Progress = lambda received, total: None,
) -> Path:
    """Download `url` to `path`, continuing an earlier attempt that was cut off.

    Args:
        url: an http or https address.
        path: the file to write; the unfinished download is kept at `path` + ".part".
        size: exact size in bytes, where it is known.
        min_size: least size in bytes that the file can have.
        progress: called with the bytes received so far and the total (None while unknown).

    Returns:
        `path`.

    Raises:
        ValueError: not a web address, or the server offers a file of the wrong size.
        OSError: the server refused, the connection broke, another process downloads to `path`, or
            the disk is full. What has arrived is kept, and the same call continues from there.
    """
    path = Path(path)
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is not an http or https address")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with _held(part):
        body = _open(url, part)
        with body.response:
            total = size if body.total is None else body.total
            if (size is not None and total != size) or (total is not None and total < min_size):
                expected = f"{size:,}" if size is not None else f"at least {min_size:,}"
                raise ValueError(f"{url} has {total:,} bytes, the checkpoint has {expected}")
            check_space(part, (total or 0) - body.offset)
            received = _receive(body, part, total, progress)
        if received < max(min_size, total or 0):
            raise OSError(_broken(received, total, "the server ended the transfer early"))
        if path.exists():
            raise FileExistsError(f"{path} has come into being meanwhile; the download is kept at {part}")
        os.replace(part, path)
    return path


@contextmanager
def _held(part: Path) -> Iterator[None]:
    """Keeps other processes from the unfinished download; an empty one does not stay."""
    is_new = not part.exists()
    with part.open("ab") as file:
        if not hold_file(file.fileno()):
            raise OSError(f"another process downloads to {part}; wait for its end")
        try:
            yield
        finally:
            if is_new and part.exists() and not part.stat().st_size:
                part.unlink()


class _Body(NamedTuple):
    response: http.client.HTTPResponse
    offset: int
    total: int | None


def _open(url: str, part: Path) -> _Body:
    # Asking for the last byte again keeps the request valid when the part is already whole.
    offset = max(part.stat().st_size - 1, 0) if part.exists() else 0
    headers = {"User-Agent": "jaxdiff"} | ({"Range": f"bytes={offset}-"} if offset else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            return _restart(url, part)
        raise OSError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise OSError(f"{url} cannot be reached ({reason}); is there a network?") from error
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        length = response.headers.get("Content-Length")
        return _Body(response, 0, int(length) if length else None)
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != offset:
        response.close()
        return _restart(url, part)
    return _Body(response, offset, int(found[2]))


def _restart(url: str, part: Path) -> _Body:
    if not part.stat().st_size:
        raise OSError(f"{url}: the server sends a part of the file where all of it was asked for")
    os.truncate(part, 0)
    return _open(url, part)


def _receive(body: _Body, part: Path, total: int | None, progress: Progress) -> int:
    received = body.offset
    try:
        with part.open("r+b" if body.offset else "wb") as file:
            if body.offset:
                file.seek(body.offset)
                file.truncate()
            while chunk := body.response.read(CHUNK_BYTES):
                file.write(chunk)
                received += len(chunk)
                progress(received, total)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, http.client.HTTPException) as error:
        raise OSError(_broken(received, total, str(error))) from error
    return received


def _broken(received: int, total: int | None, reason: str) -> str:
    of_total = "" if total is None else f" of {total:,}"
    return f"stopped after {received:,}{of_total} bytes ({reason}); the same command continues there"


def check_space(path: Path, needed: int) -> None:
    """Raise OSError if the disk that `path` will lie on has less than `needed` bytes free."""
    folder = next(folder for folder in path.resolve().parents if folder.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{folder} has {free:,} bytes free, {needed:,} are needed")
