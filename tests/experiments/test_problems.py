"""The problems: their names, their operators and their simulated measurements."""

import jax
import jax.numpy as jnp
import pytest

from experiments.shared.problems import PROBLEMS, make_operator, make_problem
from jaxdiff.errors import UserError


def test_an_unknown_task_is_refused_with_the_known_names():
    truth = jnp.zeros((16, 16, 3))
    for make in (
        lambda name: make_problem(name, truth, 0.05, 0),
        lambda name: make_operator(name, (16, 16, 3), jax.random.key(0)),
    ):
        with pytest.raises(UserError, match=r"'bluur' \(did you mean 'blur'\?\); known: box, random, blur"):
            make("bluur")
        with pytest.raises(UserError, match="unknown task 'deblur'"):
            make("deblur")


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_is_measured_by_its_own_operator_with_its_own_noise(name):
    """And the same seed gives the same measurement, another seed another one."""
    truth = jax.random.uniform(jax.random.key(0), (16, 24, 3), minval=-1, maxval=1)
    first, same, other = (make_problem(name, truth, 0.05, seed) for seed in (3, 3, 4))
    assert first.task == ("deblur" if name == "blur" else "inpaint")
    assert first.title == PROBLEMS[name].title
    assert (first.measurement.y == same.measurement.y).all()
    assert not (first.measurement.y == other.measurement.y).all()
    assert 0.8 < float(first.measurement.residual_ratio(truth)) < 1.2
    hidden = 1 - float(jnp.broadcast_to(first.measurement.observed, truth.shape).mean())
    assert hidden == pytest.approx({"box": 0.25, "random": 0.7, "blur": 0.0}[name], abs=0.003)
