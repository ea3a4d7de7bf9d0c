"""How a script is run from the command line."""

import sys
from collections.abc import Callable
from typing import TypeVar

import tyro

from jaxdiff.errors import INTERRUPTED, check_file_names, check_seed, exit_on_user_error
from jaxdiff.runs.platform import prepare

Config = TypeVar("Config")


def run_script(
    main: Callable[[Config], None],
    config: type[Config],
    description: str | None,
    interrupted: str = INTERRUPTED,
    *,
    core_by_core: bool = True,
) -> None:
    """Reads the flags and runs a script; compiled programs are kept for the next start.

    Args:
        main: the script.
        config: the dataclass of its flags.
        description: the head of its help.
        interrupted: what to say after Ctrl-C.
        core_by_core: whether every core of a CPU is a device of its own.
    """
    with exit_on_user_error(interrupted):
        check_file_names(sys.argv[1:])
        flags = tyro.cli(config, description=description)
        check_seed(getattr(flags, "seed", 0))
        prepare(core_by_core=core_by_core)
        main(flags)
