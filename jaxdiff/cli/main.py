"""The command `jaxdiff`: restore a picture, export a sampler, convert a network, print what there is.

jaxdiff restore DAMAGED.png --mask MASK.png
jaxdiff export DAMAGED.png --mask MASK.png
jaxdiff convert CHECKPOINT FOLDER
jaxdiff info
jaxdiff info PRIOR
jaxdiff list
"""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from jaxdiff.cli.request import Export, Restore
from jaxdiff.errors import INTERRUPTED, check_file_names, exit_on_user_error

NOTHING = "nothing was written"
"""What to say after Ctrl-C where a command leaves nothing."""


@dataclass(frozen=True)
class Info:
    """Versions, devices, memory, and the priors and LPIPS weights that are found; or what is stored about a prior."""

    prior: tyro.conf.Positional[str | None] = None
    """A shipped prior, or a folder of one: tells its origin, licence, architecture, schedule and image size."""


@dataclass(frozen=True)
class List:
    """Tasks, samplers and operators, with their parameters and sources."""


@dataclass(frozen=True)
class Convert:
    """Convert checkpoints of other libraries to priors and back; `jaxdiff convert --help` lists its own commands."""


Command = (
    Annotated[Restore, tyro.conf.subcommand("restore")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; bad input ends with one sentence and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["convert"]:
        from convert_weights.__main__ import main as convert

        sys.exit(convert(arguments[1:], program="jaxdiff convert"))
    with exit_on_user_error(NOTHING):
        check_file_names(arguments)
    command = tyro.cli(
        Command,  # pyright: ignore[reportArgumentType]
        prog="jaxdiff",
        description="Restores pictures by posterior sampling with a diffusion prior.",
        args=arguments,
        config=(tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff),
    )
    with exit_on_user_error(INTERRUPTED if type(command) is Restore else NOTHING):
        run(command)


def run(command: Restore | Export | Convert | Info | List) -> None:
    """Carries out a command; JAX is imported here and not before."""
    if isinstance(command, Restore):
        command.check()
        from jaxdiff.runs.platform import prepare

        prepare()
        if isinstance(command, Export):
            from jaxdiff.cli.export import export_sampler

            export_sampler(command)
        else:
            from jaxdiff.cli.folder import restore_folder
            from jaxdiff.cli.restore import restore

            restore_folder(command) if command.damaged.is_dir() else restore(command)
    else:
        from jaxdiff.cli.info import print_info, print_list, print_prior

        if isinstance(command, List):
            print_list()
        elif isinstance(command, Info) and command.prior is not None:
            print_prior(command.prior)
        else:
            print_info()
