"""The values of a hyper-parameter that a sweep is asked to try."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdiff.errors import UserError
from jaxdiff.runs.methods import METHODS, HyperParameters

Numbers = tuple[float, ...]
"""A value: zeta, or gamma at the clean and at the noisy end."""


def in_short(numbers: Numbers) -> str:
    """Returns a value as text.

    >>> in_short((0.3,)), in_short((10.0, 15.0))
    ('0.3', '10:15')
    """
    return ":".join(f"{number:.3g}" for number in numbers)


@dataclass(frozen=True)
class SweepGrid:
    """A method and the values to try; what is left decides the program.

    Attributes:
        method: as on the command line.
        weighting: ScoreALD's; none for DPS.
        values: in the units of the literature, in the order of the axis.
    """

    method: str
    weighting: str
    values: list[Numbers]

    @property
    def parameter(self) -> str:
        """What varies."""
        return "zeta" if self.method == "dps" else "gamma"

    @property
    def fields(self) -> tuple[str, ...]:
        """The sampler's fields that vary, one per number."""
        return ("zeta",) if self.method == "dps" else ("gamma_clean", "gamma_noisy")

    @property
    def name(self) -> str:
        """The method as in tables."""
        return METHODS[self.method].name + (f", {self.weighting}" if self.weighting else "")

    def chosen(self, value: Numbers) -> HyperParameters:
        """Returns the hyper-parameters of one value."""
        if self.method == "dps":
            return HyperParameters(zeta=value[0])
        return HyperParameters(gamma=(value[0], value[1]), weighting=self.weighting)


def read_zetas(text: str) -> list[Numbers]:
    """Reads single values and ranges `from:to:count`, separated by commas.

    >>> read_zetas("0.1:0.4:3,1")
    [(0.1,), (0.2,), (0.4,), (1.0,)]
    """
    values: set[float] = set()
    for part in text.split(","):
        ends, count = part.split(":")[:2], part.split(":")[2:]
        numbers = [_positive(text) for text in ends]
        if None in numbers or len(count) > 1 or (len(numbers) == 2 and not count):
            raise UserError(f"--zeta {part!r} is neither a positive number nor from:to:count, such as 0.05:2:12.")
        if not count:
            values.add(numbers[0])
            continue
        low, high = numbers
        if low >= high:
            raise UserError(f"--zeta {part!r} must go up; write the smaller end first.")
        if not count[0].isdecimal() or not 2 <= int(count[0]) <= 1000:
            raise UserError(f"--zeta {part!r} must have a count from 2 to 1000.")
        values.update(float(f"{x:.6g}") for x in np.geomspace(low, high, int(count[0])))
    return sorted((value,) for value in values)


def read_gammas(texts: Sequence[str]) -> list[Numbers]:
    """Reads pairs `clean:noisy`."""
    pairs: set[Numbers] = set()
    for text in texts:
        numbers = tuple(_positive(number) for number in text.split(":"))
        if None in numbers or len(numbers) != 2:
            raise UserError(f"--gamma {text!r} is not a pair clean:noisy of positive numbers, such as 10:15.")
        pairs.add(numbers)
    if not pairs:
        raise UserError("no --gamma given; Jacques' are 10:15 and 28:33.")
    return sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair))


def _positive(text: str) -> Any:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < math.inf else None
