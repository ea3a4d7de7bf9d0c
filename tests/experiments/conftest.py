"""What the tests of scripts share: pictures, results as rows, and counts of what is compiled."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from jaxdiff import Denoiser, load_prior, sample
from jaxdiff.images.files import write_image
from jaxdiff.networks.precision import Dtype
from jaxdiff.schedule import linear
from tests.conftest import TINY


class Zero(nnx.Module):
    """The network of the standard normal prior, whose `v` is zero; in low precision it is what rounding takes away."""

    def __init__(self, dtype: str):
        self.config, self.dtype = TINY, dtype
        self.gain = nnx.Param(jnp.ones(()))

    def __call__(self, x_t: Array, t: Array) -> Array:
        rounded = x_t if self.dtype == "float32" else jax.lax.reduce_precision(x_t, exponent_bits=8, mantissa_bits=7)
        return self.gain * (rounded - x_t)


@contextmanager
def named_normal() -> Iterator[str]:
    """Lets scripts find a standard normal prior for images of 16x16 by a name; a network compiles for long."""

    def load(name: str, dtype: Dtype = "float32", channels: int | None = None) -> Denoiser:
        if name != "normal":
            return load_prior(name, dtype=dtype, channels=channels)
        return Denoiser(Zero(dtype), linear(), (16, 16, 3), target="v")

    with pytest.MonkeyPatch.context() as patch:
        for module in ("shared.problems", "generate", "precision", "check_prior", "verdicts", "evaluate.__main__"):
            patch.setattr(f"experiments.{module}.load_prior", load)
        yield "normal"


@pytest.fixture(scope="module")
def normal_prior() -> Iterator[str]:
    """The name of a standard normal prior for images of 16x16."""
    with named_normal() as name:
        yield name


@pytest.fixture(scope="module", autouse=True)
def no_lpips_weights(tmp_path_factory: pytest.TempPathFactory):
    """LPIPS weights of whoever runs the tests must not change the results."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JAXDIFF_WEIGHTS", "XDG_CACHE_HOME", "HF_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp("empty")))
        patch.setattr("jaxdiff.metrics.lpips_files.PACKAGE", "no_such_package")
        yield


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of 16x16; drawing a face takes seconds to compile."""
    ramp = np.linspace(-0.9, 0.9, 16 * 16 * 3, dtype=np.float32).reshape(16, 16, 3)
    write_image(tmp_path / "photo.png", ramp)
    return tmp_path / "photo.png"


@pytest.fixture
def flat_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every held-out face a colour of its own; drawing faces takes seconds to compile."""
    for module in ("shared.problems", "shared.realism", "check_prior", "verdicts", "out_of_distribution.__main__"):
        name = f"experiments.{module}.held_out_face"
        monkeypatch.setattr(name, lambda index, size: jnp.full((size, size, 3), 0.01 * index))


@pytest.fixture(scope="session")
def read_rows() -> Callable[[Path], list[dict[str, str]]]:
    """Returns a function that reads the `metrics.csv` of a folder."""

    def read(folder: Path) -> list[dict[str, str]]:
        with (folder / "metrics.csv").open() as file:
            return list(csv.DictReader(file))

    return read


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows with every program that draws chains, and not when one runs again.

    Programs are counted by their traces of the loop over diffusion times.
    """
    traced: list[str] = []

    def counted(sampler, *arguments, **options):
        traced.append(type(sampler).__name__)
        return sample(sampler, *arguments, **options)

    monkeypatch.setattr("jaxdiff.chains.program.sample", counted)
    return traced
