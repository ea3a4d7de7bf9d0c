"""The command `jaxdiff export`: what `jaxdiff restore` would run, as a folder that runs without this package."""

from rich.console import Console

from jaxdiff.chains import archive
from jaxdiff.cli.damage import read_damage, say
from jaxdiff.cli.request import Export
from jaxdiff.cli.restore import complete, set_up
from jaxdiff.disk import check_replaceable
from jaxdiff.errors import UserError
from jaxdiff.priors.storage import load_prior
from jaxdiff.runs.fitting import fitted_prior


def check_folder(request: Export) -> None:
    """Refuses a folder that may not be replaced.

    Raises:
        UserError: if it holds anything but an exported sampler, or one and `--overwrite` is not given.
    """
    try:
        check_replaceable(request.folder.resolve(), archive.EXPORTED, request.overwrite)
    except FileExistsError as error:
        raise UserError(str(error)) from error


def export_sampler(request: Export) -> None:
    """Writes the folder.

    Raises:
        UserError: if a flag, a file or the folder is not usable.
        PriorError: if the prior is not.
    """
    request.check()
    console = Console()
    check_folder(request)  # at once: what follows takes long
    prior = load_prior(request.prior, dtype=request.dtype, channels=3)
    asked = complete(request, prior)
    damage = read_damage(asked, prior, console)
    run = set_up(asked, fitted_prior(prior, damage.image_shape, damage.wanted), damage.measurement)
    try:
        archive.save(
            request.folder,
            run.sampler,
            run.times,
            request.samples,
            platforms=request.platforms,
            overwrite=request.overwrite,
        )
    except FileExistsError as error:
        raise UserError(str(error)) from error
    except ImportError as error:
        raise UserError('the file format of jax.export needs flatbuffers: pip install "jaxdiff[export]".') from error
    say(console, f"written to {request.folder}: run.py, program.bin, arrays.npz, about.json")
