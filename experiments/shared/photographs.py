"""Photographs to try things on, from Python packages that hold some."""

import importlib.util
from pathlib import Path

from jaxdiff.errors import UserError

PHOTOGRAPHS = {
    "astronaut": "skimage/data/astronaut.png",
    "chelsea": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "china": "sklearn/datasets/images/china.jpg",
    "flower": "sklearn/datasets/images/flower.jpg",
    "hopper": "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
}
"""Photographs that come with Python packages; no prior here was trained on them."""


def find_photograph(name: str) -> Path:
    """Returns the file of one of `PHOTOGRAPHS`.

    Raises:
        UserError: if its package is not installed.
    """
    package, _, inside = PHOTOGRAPHS[name].partition("/")
    found = importlib.util.find_spec(package)
    folder = None if found is None or found.origin is None else Path(found.origin).parent
    if folder is None or not (folder / inside).is_file():
        raise UserError(f'the photograph {name} comes with {package}: pip install "jaxdiff[photos]".')
    return folder / inside
