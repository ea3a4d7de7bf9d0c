"""`jaxdiff restore FOLDER`: every picture in a folder, with one page that shows them all."""

from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image
from rich.console import Console

from jaxdiff.cli.damage import say
from jaxdiff.cli.request import Restore
from jaxdiff.disk import MANIFEST, release_folder
from jaxdiff.errors import UserError
from jaxdiff.runs import page
from jaxdiff.runs.folder import command_line, finish_folder, open_folder
from jaxdiff.runs.tables import Row, write_csv

PROGRAM = "jaxdiff restore FOLDER"


def restore_folder(request: Restore) -> None:
    """Restores every picture in a folder; one that fails does not stop the others.

    Raises:
        UserError: if there is no picture, the result folder is not usable, or, at the end, a picture was not restored.
    """
    from jaxdiff.cli.restore import restore

    console = Console()
    pictures = list(pictures_of(request))
    if not pictures:
        deeper = "" if request.recursive else "; --recursive looks into its folders too"
        raise UserError(f"there is no picture in {request.damaged}{deeper}.")
    command = command_line("jaxdiff restore", request)
    settings: dict[str, Any] = {"command": command}
    inputs = (request.damaged, request.mask, request.kernel)
    resume, overwrite = request.resume, request.overwrite
    open_folder(request.folder, PROGRAM, settings, command=command, resume=resume, overwrite=overwrite, inputs=inputs)
    rows: list[Row] = []
    for number, picture in enumerate(pictures):
        name = picture.relative_to(request.damaged)
        say(console, f"\n{number + 1} of {len(pictures)}: {name}")
        one = of_picture(request, picture)
        found: Row = {"picture": str(name), "results": one.folder.relative_to(request.folder).as_posix()}
        try:
            found |= {"verdict": restore(one), "error": ""}
        except (UserError, MemoryError) as error:
            say(console, f"error: {error}")
            found |= {"verdict": "", "error": str(error)}
        finally:
            release_folder(one.folder)
        rows.append(found)
        write_csv(request.folder / "pictures.csv", rows)
        write_index(request, rows)
    finish_folder(request.folder, {})
    failed = [row for row in rows if row["error"]]
    say(console, f"\n{len(rows) - len(failed)} of {len(rows)} pictures restored: {request.folder / 'index.html'}")
    for row in failed:
        say(console, f"  not {row['picture']}: {row['error']}")
    if failed:
        raise UserError(f"{len(failed)} of the {len(rows)} pictures in {request.damaged} could not be restored.")


def pictures_of(request: Restore) -> Iterator[Path]:
    """Yields the pictures in the folder, by their suffixes; results of this package are not among them."""
    known = Image.registered_extensions()
    for path in sorted(request.damaged.glob("**/*" if request.recursive else "*")):
        inside = path.relative_to(request.damaged)
        if any(part.startswith(".") for part in inside.parts) or path.suffix.lower() not in known or path.is_dir():
            continue
        own = (request.damaged / parent for parent in inside.parents)
        if path not in (request.mask, request.kernel) and not any((parent / MANIFEST).exists() for parent in own):
            yield path


def of_picture(request: Restore, picture: Path) -> Restore:
    """Returns what is asked for one picture: with its own mask, in a result folder of its own."""
    name = picture.relative_to(request.damaged)
    mask = request.mask
    if mask is not None and mask.is_dir():
        beside = sorted(path for path in (mask / name.parent).glob("*") if path.stem == name.stem)
        mask = beside[0] if beside else mask / name
    # With its suffix, as photo.png and photo.jpg are two pictures.
    out = request.folder / name.parent / name.name.replace(".", "-")
    resume = request.resume and out.exists()
    return replace(request, damaged=picture, mask=mask, out=out, resume=resume, recursive=False)


def write_index(request: Restore, rows: list[Row]) -> None:
    """Writes `index.html`: every picture as it was and as it is now, or why it is not."""
    blocks = [page.command(command_line("jaxdiff restore", request))]
    for row in rows:
        folder = quote(str(row["results"]))
        head = f"<h2>{escape(str(row['picture']))}</h2>"
        if row["error"]:
            blocks.append(f"{head}<p>{escape(str(row['error']))}</p>")
            continue
        shown = (("measurement.png", "as it was measured"), ("restored.png", "restored"))
        figures = [
            f'<figure><img src="{folder}/{file}" style="max-width:24em;max-height:24em" alt="{words}">'
            f"<figcaption>{words}</figcaption></figure>"
            for file, words in shown
        ]
        verdict = escape(str(row["verdict"]))
        blocks.append(f'{head}<p>{verdict}; <a href="{folder}/report.html">report</a></p>{page.row(figures)}')
    page.write_page(request.folder / "index.html", f"Pictures of {request.damaged.resolve().name}", blocks)
