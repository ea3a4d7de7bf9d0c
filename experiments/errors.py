"""How a script ends when its input is bad: one sentence, exit code 2, no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jaxdiff.checkpoint import PriorError


class UserError(ValueError):
    """The user can mend this; the message says how."""


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turns what a user can mend into one sentence on stderr and exit code 2."""
    try:
        yield
    except (UserError, PriorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
