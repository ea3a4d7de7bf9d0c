"""How a run with a report's settings stands beside the report: its numbers, what it leaves open, what is different."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.shared.papers import PAPERS, STEPS, Paper
from jaxdiff import Denoiser
from jaxdiff.networks.unet import FFHQ_256
from jaxdiff.priors.denoiser import Prediction, Prior, Time, WrappedPrior
from jaxdiff.pytree import pytree
from jaxdiff.runs.methods import METHODS


@pytree
class FixedLarge(WrappedPrior):
    """A prior whose ancestral steps have the largest variance, beta, whatever its network has learned.

    Args:
        prior: any.
    """

    prior: Prior

    def predict(self, x_t: Float[Array, "h w c"], t: Time) -> Prediction:
        """Runs the network once."""
        return self.prior.predict(x_t, t)._replace(variance_fraction=jnp.ones(()))


def prior_of(paper: Paper | None, prior: Denoiser) -> Prior:
    """Returns the prior with the variance that the report states; one that must be learned cannot be added."""
    return FixedLarge(prior) if paper is not None and paper.variance == "fixed_large" else prior


def remarks(paper: Paper | None, steps: int, prior: Denoiser) -> dict[str, Sequence[str]]:
    """Returns what is to be said aloud of a report's settings, under headings."""
    if paper is None:
        return {}
    found = {
        "Source": [paper.citation],
        f"Left open by {paper.name}": paper.left_open,
        f"Different from {paper.name}": departures(paper, steps, prior),
    }
    return {head: sentences for head, sentences in found.items() if sentences}


def departures(paper: Paper, steps: int, prior: Denoiser) -> list[str]:
    """Says where a run differs from what the report states."""
    found = []
    if steps != STEPS:
        found.append(
            f"The settings are for {STEPS} steps (--steps {STEPS}), this run takes {steps}: step sizes are scaled so "
            "that all steps together go as far."
        )
    if least_gamma(paper) * steps < STEPS:
        found.append(
            f"With so few steps ScoreALD's gammas below {STEPS / steps:g} all act alike, as {STEPS / steps:g}."
        )
    if steps < STEPS and paper.variance == "fixed_large":
        found.append("The report's variance, beta, grows with the length of a step: a short chain ends noisier.")
    if not is_ffhq_256(prior):
        h, w, _ = prior.image_shape
        found.append(
            "The settings and numbers are for the FFHQ network at 256x256, this run has another network or size "
            f"({w}x{h}): step sizes are scaled, and the numbers are for orientation only."
        )
    if paper.variance == "learned_range" != prior.variance:
        found.append(
            "The report draws with the variance that its network has learned. This network has learned none; its own, "
            f"{prior.variance}, is used."
        )
    return found


def least_gamma(paper: Paper) -> float:
    """Returns the least gamma of ScoreALD under `over_gamma`: below `STEPS / steps` it would pull past the data."""
    chosen = [c for variant in paper.variants for c in variant.chosen.values() if c.weighting == "over_gamma"]
    return min((gamma for c in chosen if c.gamma for gamma in c.gamma), default=float("inf"))


def published(paper: Paper | None, prior: Denoiser) -> dict[str, Mapping[tuple[str, str], str]]:
    """Returns columns of published numbers, by task and method.

    With a report they are its own; otherwise the best of every report, for the network that they are about.
    """
    if paper is not None:
        numbers = {(task, v.name): text for v in paper.variants for task, text in v.numbers.items()}
        return {f"{paper.name}: PSNR / LPIPS (FFHQ-256, their face)": numbers} if numbers else {}
    if not is_ffhq_256(prior):
        return {}
    columns = {f"{paper.name}: PSNR / LPIPS (their face)": best_numbers(paper) for paper in PAPERS.values()}
    return {head: numbers for head, numbers in columns.items() if numbers}


def best_numbers(paper: Paper) -> dict[tuple[str, str], str]:
    """Returns a report's numbers of best PSNR among its settings, by task and method."""
    best: dict[tuple[str, str], str] = {}
    for variant in paper.variants:
        for task, text in variant.numbers.items():
            key = task, METHODS[variant.method].name
            best[key] = max(best.get(key, text), text, key=lambda text: float(text.split()[0]))
    return best


def is_ffhq_256(prior: Denoiser) -> bool:
    """Tells whether the published numbers are about this network, at its own size."""
    return prior.network.config == FFHQ_256 and prior.image_shape == (256, 256, 3)
