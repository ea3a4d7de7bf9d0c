"""The run-time check of annotations, for `jaxtyping.install_import_hook`."""

import warnings
from collections.abc import Callable

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep585DeprecationWarning

# An `int` may stand where a `float` is asked for.
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable) -> Callable:
    """Returns the function with a check around it."""
    with warnings.catch_warnings():
        # Flax's own classes are annotated in the old way.
        warnings.simplefilter("ignore", BeartypeDecorHintPep585DeprecationWarning)
        return _check(function)
