"""What a user can mend, and how a script then ends: one sentence, exit code 2, no traceback."""

import difflib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

INTERRUPTED = "the same command with --resume goes on where this one stopped; --overwrite would start anew"
"""What to say after Ctrl-C where a run can go on."""


class UserError(ValueError):
    """The user can mend this; the message says how."""


class UnsuitableMethod(UserError):
    """A method refuses a measurement: of this operator, this shape, or this noise."""


@contextmanager
def exit_on_user_error(how_to_go_on: str) -> Iterator[None]:
    """Turns what a user can mend into one sentence on stderr and exit code 2, and Ctrl-C into exit code 130.

    Args:
        how_to_go_on: what an interrupted user should know.
    """
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _end(f"error: {where}{error.strerror or error}.", 2)
    except MemoryError as error:
        _end(f"error: {str(error) or 'out of memory.'}", 2)
    except KeyboardInterrupt:
        _end(f"interrupted; {how_to_go_on}.", 130)
    except UserError as error:
        _end(f"error: {error}", 2)


def _end(sentence: str, code: int) -> NoReturn:
    sys.stderr.write(sentence + "\n")
    sys.exit(code)


def start_devices() -> None:
    """Starts JAX's devices, so that nothing else is blamed where that fails.

    Raises:
        UserError: if there is no device of the kind that `JAX_PLATFORMS` asks for.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or ["there is none of the kind asked for"])[0].rstrip(".")
        raise UserError(f"JAX cannot start its devices ({reason}); JAX_PLATFORMS=cpu takes the CPU.") from error


def check_file_names(arguments: Sequence[str]) -> None:
    """Refuses the name of a file that reads like a flag."""
    for word in arguments:
        if word.startswith("-") and Path(word).exists():
            raise UserError(f"{word} reads like a flag; ./{word} names the file.")


def check_positive(**numbers: int | str | None) -> None:
    """Refuses flags below 1; the names are those of the settings, and None and words are no numbers."""
    for name, value in numbers.items():
        if isinstance(value, int) and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")


def check_seed(seed: int) -> None:
    """Refuses a seed of which `jax.random.key` would take the last 32 bits only, which are another's too."""
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed must be between 0 and {2**32 - 1}, got {seed}.")


def check_name(name: str, known: Sequence[str], what: str) -> str:
    """Returns a name that is known; another ends the script with the nearest."""
    if name not in known:
        # Of names that are as near, the one with the same letters: letters swap more often than they change.
        near = sorted(difflib.get_close_matches(name, known), key=lambda other: sorted(other) != sorted(name))
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(f"unknown {what} {name!r}{hint}; known: {', '.join(known)}.")
    return name


def check_names(names: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """Returns the names without repetition; none or an unknown one ends the script."""
    if not names:
        raise UserError(f"no {what} given; known: {', '.join(known)}.")
    return list(dict.fromkeys(check_name(name, known, what) for name in names))
