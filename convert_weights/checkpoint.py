"""Read the weights of one network from a file, of whatever kind it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convert_weights.safetensors_file import is_safetensors, open_safetensors, open_sharded
from convert_weights.state_dict import Stored, find_weights, has_marks, nothing_found
from convert_weights.torch_file import open_torch_file


class Checkpoint(NamedTuple):
    """The tensors of a network in a checkpoint.

    Attributes:
        tensors: read-only arrays in the file's own precision (bfloat16 as `ml_dtypes.bfloat16`), by their names in
            the network. Tensors that share a storage share memory.
        wrapper: where in the file they are, such as `ema.module`; "" at the top.
        averaged: whether they are averages over the training.
        others: where other weights of such a network are, which were not taken.
    """

    tensors: dict[str, np.ndarray]
    wrapper: str
    averaged: bool = False
    others: tuple[str, ...] = ()

    def says(self) -> str:
        """One line on which weights these are."""
        place = f"taken from `{self.wrapper}`" if self.wrapper else "taken from the top of the file"
        average = ", averages over the training" if self.averaged else ""
        others = ", ".join(f"`{other or '.'}`" for other in self.others)
        return f"weights: {place}{average}{f'; not taken: {others}' if others else ''}"


@dataclass(frozen=True)
class OpenFile:
    """A file whose description of tensors has been read, and none of their numbers."""

    path: Path
    stored: Stored

    def has(self, marks: tuple[str, ...]) -> bool:
        """Tells whether it has tensors of these names, under any prefix."""
        with self._named():
            return has_marks(self.stored.content, marks)

    def refusal(self, sought: str) -> ValueError:
        """Says what the file is, which does not hold what is sought."""
        return ValueError(f"{self.path} {nothing_found(self.stored.content, sought)}")

    def read(self, marks: tuple[str, ...], wrapper: str | None = None) -> Checkpoint:
        """Reads the weights of one network.

        Args:
            marks: names of tensors by which the network is known, under any prefix, in any dictionary or list.
            wrapper: which weights to take, where there are several; by default the averaged ones.

        Raises:
            ValueError: the file does not say which weights to take, or is damaged.
        """
        with self._named():
            found = find_weights(self.stored.content, marks, wrapper)
        return Checkpoint(self.stored.load(found.views), found.wrapper, found.averaged, found.others)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.path} {error}") from error


def open_checkpoint(path: str | Path) -> OpenFile:
    """Reads what a file says about its tensors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a readable checkpoint, or its pickle asks for what runs programs.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder, not a file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.name.endswith(".index.json"):
        return OpenFile(path, open_sharded(path))
    return OpenFile(path, open_safetensors(path) if is_safetensors(path) else open_torch_file(path))


def read_checkpoint(path: str | Path, marks: tuple[str, ...], wrapper: str | None = None) -> Checkpoint:
    """Reads the weights of one network from a file; see `OpenFile.read`."""
    return open_checkpoint(path).read(marks, wrapper)
