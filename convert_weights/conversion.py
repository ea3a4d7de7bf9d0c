"""From a file to a prior: find the file, recognise its format, convert, save, and say what was taken for what."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from convert_weights.checkpoint import Checkpoint, OpenFile, open_checkpoint
from convert_weights.download import check_space
from convert_weights.formats.base import Choices, Converted, Format
from convert_weights.sources import origin
from jaxdiff.disk import check_replaceable
from jaxdiff.priors.storage import PRIOR_FOLDER, save_prior

BLOCK_BYTES = 2**20
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
INDEX = ".safetensors.index.json"
SHARD = re.compile(r"-\d+-of-\d+\.")
DIFFUSERS_NAME = "diffusion_pytorch_model"
# Where a pipeline of diffusers keeps its network; averages over the training first.
PARTS = ("unet_ema", "unet")


def convert(
    source: Path,
    out_dir: Path,
    formats: Sequence[Format],
    choices: Choices,
    overwrite: bool,
    known: Mapping[str, str] | None = None,
) -> None:
    """Converts a file, or the one in a folder, to a prior, and prints what it was taken for.

    Args:
        source: the file or folder.
        out_dir: folder for the prior.
        formats: those that the file may be of.
        choices: what was given.
        overwrite: replace a prior.
        known: what the prior is to keep about its origin besides, such as `trained_on` and `licence`.

    Raises:
        FileNotFoundError: there is no such file, or the folder has none.
        FileExistsError: `out_dir` is not free.
        ValueError: the file is damaged, of no such format, or something in it does not fit.
    """
    check_free(out_dir, overwrite, source)
    path, others = find_file(source)
    file = open_checkpoint(path)
    form = recognise(file, formats)
    with _in_file(path):
        form.check(choices)
    checkpoint, said = read_single(file, form.marks, choices.weights)
    with _in_file(path, checkpoint.wrapper):
        weights, config, taken = form.convert(checkpoint.tensors, choices, path.parent)
    config = replace(
        config, source={"format": form.name} | _source(file, checkpoint) | _licence(path) | dict(known or {})
    )
    said = [f"taken for {form.network}, {path}", *others, *said, *_averages_beside(path)]
    _save(out_dir, Converted(weights, config, [*said, *taken]), overwrite)


def find_file(source: Path) -> tuple[Path, list[str]]:
    """Returns the file that is given, or that with the weights in a folder, and says which it did not take.

    A folder of diffusers holds the model itself or, as a pipeline, in a folder of its own; there may be one of
    averages over the training, files in several precisions, of which the highest is taken, and shards with an index.

    Raises:
        FileNotFoundError: if there are none, or several of which none comes first.
    """
    if not source.is_dir():
        return source, []
    parts = [part for part in PARTS if (source / part).is_dir()]
    folder = source / parts[0] if parts else source
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not SHARD.search(path.name)]
    files = [path for path in files if path.suffix in SUFFIXES or path.name.endswith(INDEX)]
    ranked = sorted(files, key=_rank)
    if not files or (len(files) > 1 and not all(path.name.startswith(DIFFUSERS_NAME) for path in files)):
        found = ", ".join(path.name for path in files[:8]) or f"none that ends with {', '.join(SUFFIXES)}"
        raise FileNotFoundError(f"{folder} is a folder; give the file with the weights in it ({found})")
    others = [*parts[1:], *(path.name for path in ranked[1:])]
    return ranked[0], [f"not taken: {', '.join(others)}"] if others else []


def _rank(path: Path) -> tuple[bool, int]:
    """Files without a variant in their name, such as fp16, come first; then safetensors."""
    name = path.name.removesuffix(".json").removesuffix(".index")
    stem, _, suffix = name.rpartition(".")
    return "." in stem, SUFFIXES.index(f".{suffix}")


def recognise(file: OpenFile, formats: Sequence[Format]) -> Format:
    """Returns the format whose tensors a file has, or the only one that is asked for.

    Raises:
        ValueError: if it is none of them; saying what the file is.
    """
    if len(formats) == 1:
        return formats[0]
    for form in formats:
        if file.has(form.marks):
            return form
    raise file.refusal(f"what is known here: {', '.join(form.network for form in formats)}")


def read_single(file: OpenFile, marks: tuple[str, ...], wrapper: str | None = None) -> tuple[Checkpoint, list[str]]:
    """Reads weights in single precision at most, and says which they are."""
    found = file.read(marks, wrapper)
    rounded = {name: t.astype(np.float32) for name, t in found.tensors.items() if t.dtype == np.float64}
    precision = ["precision: float64 in the file, rounded to float32"] if rounded else []
    return found._replace(tensors=found.tensors | rounded), [found.says(), *precision]


def check_free(out_dir: Path, overwrite: bool, source: Path | None = None) -> None:
    """Refuses a folder that may not become the prior.

    Raises:
        FileExistsError: it holds the source, or anything that may not be replaced.
    """
    if source is not None and source.resolve().is_relative_to(out_dir.resolve()):
        raise FileExistsError(f"{source} lies in {out_dir}, which is to become the prior; choose another folder")
    check_replaceable(out_dir.resolve(), PRIOR_FOLDER, overwrite)


def _averages_beside(path: Path) -> list[str]:
    """Says that guided-diffusion's trainer saved averages of these weights in files of their own."""
    step = re.fullmatch(r"model(\d+)\.pt", path.name)
    beside = sorted(other.name for other in path.parent.glob(f"ema_*_{step[1]}.pt")) if step else []
    return [f"not taken: {', '.join(beside)} beside it, averages over the training"] if beside else []


@contextmanager
def _in_file(path: Path, wrapper: str = "") -> Iterator[None]:
    """Says of which weights in which file an error is."""
    try:
        yield
    except ValueError as error:
        place = f", `{wrapper}`" if wrapper else ""
        raise ValueError(f"{path}{place}: {error}") from error


def _source(file: OpenFile, checkpoint: Checkpoint) -> dict[str, str]:
    digest = hashlib.sha256()
    for path in file.stored.files:
        with path.open("rb") as opened:
            while block := opened.read(BLOCK_BYTES):
                digest.update(block)
    sha256 = digest.hexdigest()
    return {"file": file.path.name, "sha256": sha256, "state_dict": checkpoint.wrapper} | origin(sha256)


def _licence(path: Path) -> dict[str, str]:
    """The licence in the head of the model card beside the weights or, in a pipeline, above them."""
    for card in (path.parent / "README.md", path.parent.parent / "README.md"):
        if not card.is_file() or (card.parent != path.parent and path.parent.name not in PARTS):
            continue
        with card.open(encoding="utf-8", errors="replace") as opened:
            head = re.match(r"---\n(.*?)\n---", opened.read(BLOCK_BYTES), re.DOTALL)
        if head and (found := re.search(r"^license:\s*([\w.+-]+)\s*$", head[1], re.MULTILINE)):
            return {"licence": found[1]}
    return {}


def _save(out_dir: Path, converted: Converted, overwrite: bool) -> None:
    weights = converted.weights
    check_space(out_dir, sum(weight.nbytes for weight in weights.values()))
    save_prior(out_dir, weights, converted.config, overwrite=overwrite)
    count = sum(weight.size for weight in weights.values())
    dtypes = ", ".join(sorted({str(weight.dtype) for weight in weights.values()}))
    print(f"{out_dir}: {count:,} parameters, {dtypes}; for jaxdiff.load_prior({str(out_dir)!r})")
    for line in converted.taken:
        print(f"  {line}")
