"""Tables of the bench of exact posteriors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdiff.priors.gaussian import GaussianPrior
from jaxdiff.runs.tables import Row, markdown
from jaxdiff.schedule import Schedule, time_grid

COLUMNS = {
    "bias_seen": "bias",
    "std_seen": "std",
    "cover50_seen": "50 %",
    "cover90_seen": "90 %",
    "bias_hidden": "bias, hidden",
    "std_hidden": "std, hidden",
    "cover90_hidden": "90 %, hidden",
    "wasserstein": "Wasserstein",
    "misfit": "misfit",
}
"""Figures in the long table and their heads."""


def full_table(rows: Sequence[Row]) -> str:
    """Returns every figure of every row, a table per prior, in Markdown."""
    parts = []
    for prior in dict.fromkeys(row["prior"] for row in rows):
        lines = [["operator", "sampler", "steps", *COLUMNS.values()]]
        for found in (row for row in rows if row["prior"] == prior):
            steps = str(found["steps"] or "")
            lines.append(
                [str(found["operator"]), str(found["sampler"]), steps, *(with_error(found, c) for c in COLUMNS)]
            )
        parts.append(f"## Prior: {prior}\n\n{markdown(lines)}")
    return "\n".join(parts)


def short_table(rows: Sequence[Row], prior: str, operators: Sequence[str], steps: int) -> str:
    """Returns standard deviation ratio and coverage of the measured entries under one prior, a row per sampler."""
    lines = [["sampler", *(f"{operator}: std, 90 % interval holds" for operator in operators)]]
    chosen = [row for row in rows if row["prior"] == prior and row["steps"] in (0, steps)]
    for sampler in dict.fromkeys(row["sampler"] for row in chosen if row["operator"] in operators):
        cells = [str(sampler)]
        for operator in operators:
            found = [row for row in chosen if (row["sampler"], row["operator"]) == (sampler, operator)]
            texts = (f"{with_error(row, 'std_seen')}, {percent(row, 'cover90_seen')}" for row in found)
            cells.append("diverged" if found and found[0]["diverged"] else next(texts, ""))
        lines.append(cells)
    return markdown(lines)


def ddpm_table(rows: Sequence[Row], priors: Mapping[str, Callable[[Any], Any]], size: int) -> str:
    """Returns what DDPM makes of the priors beside what its chain must give, in closed form."""
    lines = [["prior", "steps", "std ratio", "closed form of the chain"]]
    for row in rows:
        if row["operator"] == "none" and row["steps"]:
            prior = priors[str(row["prior"])]((size, size, 3))
            closed = f"{chain_ratio(prior, int(row['steps'])):.3f}" if isinstance(prior, GaussianPrior) else ""
            lines.append([str(row["prior"]), str(row["steps"]), with_error(row, "std_seen", 3), closed])
    return markdown(lines)


def chain_ratio(prior: GaussianPrior, steps: int) -> float:
    """Returns the standard deviation that DDPM's chain ends with over the prior's, root mean square over pixels."""
    ends = _diagonal(prior, lambda values: chain_variance(prior.schedule, values, steps))
    return float(np.sqrt(np.mean(ends / _diagonal(prior, lambda values: values))))


def chain_variance(schedule: Schedule, values: Float[np.ndarray, "..."], steps: int) -> Float[np.ndarray, "..."]:
    """Returns the variance that DDPM's chain ends with in directions of prior variance `values`.

    For a Gaussian prior every step is affine in every eigenvector, so that the variance follows exactly.
    """
    alpha_bar = np.exp(np.asarray(schedule.log_alpha_bar, np.float64))
    times = time_grid(schedule.num_times, steps)
    spread = np.full_like(values, 1 - alpha_bar[times[0]])
    for a_t, a_s in zip(alpha_bar[times[:-1]], alpha_bar[times[1:]], strict=True):
        beta = 1 - a_t / a_s
        gain = np.sqrt(a_t) * values / (a_t * values + 1 - a_t)
        slope = beta * np.sqrt(a_s) / (1 - a_t) * gain + (1 - a_s) * np.sqrt(a_t / a_s) / (1 - a_t)
        spread = slope**2 * spread + beta * (1 - a_s) / (1 - a_t)
    return spread


def _diagonal(
    prior: GaussianPrior, function: Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]]
) -> Float[np.ndarray, " d"]:
    """The diagonal of a function of the prior's covariance."""
    values = jnp.asarray(function(np.asarray(prior.covariance.eigenvalues, np.float64)), jnp.float32)
    basis = jnp.eye(prior.mean.size).reshape(-1, *prior.image_shape)
    entries = jax.vmap(lambda v: jnp.vdot(v, prior.covariance.apply(lambda _: values, v)))(basis)
    return np.asarray(entries, np.float64)


def with_error(row: Row, figure: str, digits: int = 2) -> str:
    """Returns a figure with its Monte-Carlo error."""
    if row["diverged"]:
        return "diverged"
    if row.get(figure, "") == "":
        return ""
    return f"{float(row[figure]):.{digits}f} ± {float(row[f'{figure}_mc']):.{digits}f}"


def percent(row: Row, figure: str) -> str:
    """Returns a coverage in per cent."""
    return "diverged" if row["diverged"] else f"{100 * float(row[figure]):.0f} %"
