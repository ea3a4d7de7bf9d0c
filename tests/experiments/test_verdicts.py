"""The check of verdicts: what is tried, what a run truly is, and the table."""

import numpy as np
import pytest

from experiments import verdicts
from jaxdiff import Diagnosis
from jaxdiff.errors import UserError


def row(family, strength, error):
    return {"family": family, "strength": strength, "error": error}


def test_a_run_is_good_or_on_one_side_of_the_best_of_its_family():
    runs = [row("a", 0.1, 3.0), row("a", 1.0, 1.0), row("a", 10.0, 2.0), row("b", 0.0, 1.2), row("c", 1.0, 9.0)]
    assert verdicts.label(runs, relative=True) == ["too weak", "good", "too strong", "good", "off at its best"]
    below = [row("a", 1.0, 0.5), row("a", 2.0, 1.0), row("b", 0.0, 2.0)]
    assert verdicts.label(below, relative=False) == ["too weak", "good", "too weak"]


def test_a_run_is_good_within_the_same_factor_above_and_below():
    runs = [row("a", 1.0, error) for error in (1.29, 1.31, 1 / 1.29, 1 / 1.31)]
    words = [verdicts.label([row("a", 2.0, 1.0), run], relative=False)[1] for run in runs]
    assert words == ["good", "too weak", "good", "too weak"]
    # On faces the best run of all families counts, and nothing is below it.
    assert verdicts.label([row("a", 1.0, 2.0), row("a", 2.0, 2.7), row("b", 0.0, 2.1)], relative=True) == [
        "good", "too strong", "good"
    ]  # fmt: skip


def test_an_unguided_run_that_is_off_is_too_weak_and_a_family_has_its_own_best():
    """A run alone in its family, and off, is neither too weak nor too strong."""
    runs = [row("a", 0.0, 9.0), row("b", 3.0, 9.0), row("c", 1.0, 5.0), row("c", 2.0, 4.0), row("c", 3.0, 6.0)]
    assert verdicts.label(runs, relative=False) == [
        "too weak", "off at its best", "too weak", "off at its best", "too strong"
    ]  # fmt: skip


@pytest.mark.thorough
def test_the_table_counts_every_family_under_its_prior(normal_prior, flat_faces, tmp_path, monkeypatch):
    """The prior is named as on the command line, and the families as in the script's help."""

    def drawn(config, problem, trial):
        samples = np.full((config.seeds, *problem.prior.image_shape), 0.01 * trial.strength, np.float32)
        return samples, Diagnosis(*(np.zeros(config.seeds) for _ in Diagnosis._fields))

    monkeypatch.setattr(verdicts, "FACES", normal_prior)
    monkeypatch.setattr(verdicts, "run_trial", drawn)
    config = verdicts.Config(priors=(normal_prior, "independent"), steps=4, out=tmp_path / "out")
    verdicts.main(config)
    table = (config.out / "table.md").read_text().splitlines()[2:]
    counts = {name: sum(int(line.split("|")[3]) for line in table if f"| {name} |" in line) for name in config.priors}
    tried = [trial.family for trial in verdicts.trials(next(verdicts.problems(config)), 4)]
    assert counts == {normal_prior: 3 * len(tried), "independent": 5 * len(tried)}
    assert set(tried) == {
        *("DDPM", "DDIM, eta 0", "DDIM, eta 0.5", "PiGDM, DDPM", "PiGDM, DDIM, eta 0", "PiGDM, DDIM, eta 0.5"),
        *("dps", "dps-norm", "dps-likelihood", "score-ald, over_gamma", "score-ald, over_variance"),
    }
    with pytest.raises(UserError, match=r"results already; --overwrite replaces them\.$"):
        verdicts.main(config)
