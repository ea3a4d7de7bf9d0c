"""Run `python -m convert_weights`: exit code 0, 2 after one sentence about bad input, 130 after Ctrl-C."""

import gc
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None, program: str = "python -m convert_weights") -> int:
    """Run one subcommand, `convert` if none is named, and return the exit code.

    Args:
        arguments: those of the command line by default.
        program: how the command is called, for its help.
    """
    command = None
    try:
        # Importing JAX takes seconds, in which Ctrl-C should not end in a traceback either.
        import tyro

        from convert_weights.commands import NAMES, Command
        from jaxdiff.errors import check_file_names

        arguments = list(sys.argv[1:] if arguments is None else arguments)
        check_file_names(arguments)
        if arguments and arguments[0] not in (*NAMES, "-h", "--help"):
            arguments.insert(0, "convert")
        command = tyro.cli(
            Command,
            prog=program,
            args=arguments,
            description="Checkpoints of other libraries to priors of jaxdiff, and back.",
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        command.run()
    except (ValueError, OSError, ImportError, MemoryError) as error:
        print(f"error: {str(error) or 'out of memory.'}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        how_to_go_on = "run the same command again" if command is None else command.interrupted
        print(f"stopped: {how_to_go_on}", file=sys.stderr, flush=True)
        return 130
    return 0


if __name__ == "__main__":
    # JAX hooks into the garbage collector, and Python drops a Ctrl-C that arrives there; so short a run needs none.
    gc.disable()
    code = main()
    if code:
        # Orbax's threads would complain at length about files that are gone.
        sys.stdout.flush()
        os._exit(code)
