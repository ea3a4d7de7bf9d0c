"""What methods refuse: as the table in the README of the samplers says, and for the reason that it gives."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

import jaxdiff
from jaxdiff.errors import UnsuitableMethod
from jaxdiff.measurement import Measurement
from jaxdiff.noise import PoissonNoise
from jaxdiff.operators import Identity
from jaxdiff.runs.methods import METHODS, make_run
from tests.conftest import SHAPE, gaussian_prior, of
from tests.operators.conftest import OPERATORS

KINDS = {
    "masks": ("box", "identity", "mask", "mask of colours", "random"),
    "singular system known": (
        "grey",
        "circular blur",
        "block mean",
        "bicubic",
        "mirrored bicubic",
        "mean of colours",
        "hadamard",
    ),
    "other linear": (
        "blur",
        "motion blur",
        "gaussian blur",
        "grey after blur",
        "block mean after blur",
        "stack of box and grey",
        "sums",
    ),
    "complex, singular system known": ("fourier",),
    "complex": ("waves",),
    "with a projection": ("high dynamic range",),
    "other non-linear": ("saturation", "affine", "phase retrieval"),
}
"""The columns of the table."""

QUICK = ("box", "waves", "high dynamic range", "saturation", "photons")
"""What is tried in every run."""

NOISE = "photons"
NAMES = {row.name: method for method, row in METHODS.items()}


def table() -> dict[str, dict[str, str]]:
    """The cells of the README's table, by the names of methods and of columns."""
    text = (Path(jaxdiff.__file__).parent / "samplers" / "README.md").read_text()
    lines = [line for line in text.split("## Which operators")[1].split("\n## ")[0].splitlines() if line[:1] == "|"]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): dict(zip(head[1:], row[1:], strict=True)) for row in rows}


@cache
def measured(operator: str) -> Measurement:
    return of(Identity(), PoissonNoise(40.0)) if operator == NOISE else of(OPERATORS[operator].make())


def refusal(method: str, measurement: Measurement) -> str:
    """What is said when a method is set up; nothing where it takes the measurement."""
    try:
        make_run(method, "inpaint", gaussian_prior(), measurement, 20)
    except UnsuitableMethod as error:
        return str(error)
    return ""


def test_the_table_has_every_method_and_operator():
    assert set(table()) == set(NAMES)
    assert sorted(name for kind in KINDS.values() for name in kind) == sorted(OPERATORS)
    assert all(list(cells) == [*KINDS, NOISE, "why not"] for cells in table().values())


CASES: list[Any] = [
    pytest.param(kind, name, marks=() if name in QUICK else pytest.mark.thorough)
    for kind, names in (KINDS | {NOISE: (NOISE,)}).items()
    for name in names
]


@pytest.mark.parametrize(("kind", "operator"), CASES)
def test_methods_refuse_what_the_table_says_for_the_reason_that_it_gives(kind, operator):
    measurement = measured(operator)
    for name, cells in table().items():
        said, cell = refusal(NAMES[name], measurement), cells[kind]
        image = measurement.y.shape == SHAPE and measurement.y.dtype.kind == "f"
        assert cell in ("yes", "no", "images")
        assert (said == "") == (cell == "yes" or (cell == "images" and image)), (name, said)
        assert not said or any(reason in said for reason in cells["why not"].split("; ")), (name, said)
