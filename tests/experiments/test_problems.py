"""The problems: their names, their operators and their simulated measurements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.shared.problems import ALL_PROBLEMS, MORE_PROBLEMS, PROBLEMS, make_operator, make_problem
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


@pytest.mark.thorough
@pytest.mark.parametrize("name", MORE_PROBLEMS)
def test_a_measurement_that_is_no_image_is_shown_as_one(name):
    """What is no picture of the image's size becomes one: by the pseudo-inverse, or the amplitudes of a spectrum."""
    truth = jax.random.uniform(jax.random.key(0), (16, 24, 3), minval=-0.4, maxval=0.4)
    problem = make_problem(name, truth, 0.01, 3)
    assert problem.title == ALL_PROBLEMS[name].title
    assert problem.shown.shape == truth.shape
    assert not jnp.iscomplexobj(problem.shown)
    assert 0.8 < float(problem.measurement.residual_ratio(truth)) < 1.2
    if name in ("upscale", "fourier", "compressed-sensing"):
        assert float(problem.measurement.residual_ratio(problem.shown)) < 0.8
    if name == "phase":
        assert np.unravel_index(problem.shown.sum(-1).argmax(), (16, 24)) == (8, 12)


def test_tasks_of_inpainting_differ_in_numbers_only_so_that_they_share_their_programs():
    made = [make_operator(name, (16, 24, 3), jax.random.key(0))[0] for name in ("box", "random", "strokes")]
    alike = {(jax.tree.structure(operator), operator.mask.shape) for operator in made}
    assert len(alike) == 1


def test_a_setting_brings_its_own_noise_and_operator():
    """DAPS puts noise on hidden pixels, 70 % of them; DDRM has twice the level."""
    truth = jax.random.uniform(jax.random.key(0), (16, 24, 3), minval=-1, maxval=1)
    hidden = make_problem("random", truth, 0.3, 0, "daps").measurement
    assert float(hidden.observed.mean()) == pytest.approx(0.3, abs=0.003)
    assert float(hidden.y[hidden.observed == 0].std()) == pytest.approx(0.05, rel=0.15)
    grey = make_problem("colourise", truth, 0.3, 0, "ddrm").measurement
    np.testing.assert_allclose(grey.operator(truth), truth.mean(-1, keepdims=True), atol=1e-6)
    assert grey.sigma_y == 0.1
