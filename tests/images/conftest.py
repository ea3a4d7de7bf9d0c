"""What the tests of pictures share."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxdiff.errors import UserError


def image(h: int = 6, w: int = 9, channels: int = 3, seed: int = 0) -> np.ndarray:
    """A random image in [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, (h, w, channels)).astype(np.float32)


def save(path: Path, values: Any, **options: Any) -> Path:
    """Writes 8-bit values as a picture, and returns where."""
    Image.fromarray(np.asarray(values, np.uint8)).save(path, **options)
    return path


def refused(match: str, function: Any, *arguments: Any, **options: Any) -> None:
    """Checks that a call ends in one sentence for the user."""
    with pytest.raises(UserError, match=match) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
