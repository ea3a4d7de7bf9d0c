"""How a script ends when its input is bad: one sentence, exit code 2, no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jaxdiff.checkpoint import PriorError


class UserError(ValueError):
    """The user can mend this; the message says how."""


@contextmanager
def exit_on_user_error(how_to_go_on: str) -> Iterator[None]:
    """Turns what a user can mend into one sentence on stderr and exit code 2, and Ctrl-C into exit code 130.

    Args:
        how_to_go_on: what an interrupted user should know.
    """
    try:
        yield
    except (UserError, PriorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"interrupted; {how_to_go_on}.", file=sys.stderr)
        sys.exit(130)
