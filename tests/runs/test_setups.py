"""Defaults follow the measurement: steps are as long as a residual that is as large as the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDIM, DDPM, DPMSolver, GaussianPrior, Heun, Measurement, measure, sample_many
from jaxdiff.errors import UserError
from jaxdiff.networks.ffdnet import FFDNetConfig
from jaxdiff.operators import BlockMean, GaussianBlur, Identity, Mask
from jaxdiff.priors.config import PriorConfig
from jaxdiff.priors.gaussian import Diagonal
from jaxdiff.priors.storage import load_prior, save_prior
from jaxdiff.runs.methods import HyperParameters, best_method, default_steps, make_run
from jaxdiff.runs.setup import INTEGRATORS, PHOTO_METHODS
from jaxdiff.runs.setups import GAMMA, MATCHED_ZETA, SMALL_GAMMA, ZETA
from jaxdiff.schedule import linear
from tests.conftest import random_weights
from tests.operators.conftest import Waves

SIGMA_Y = 0.05


def white(*shape):
    """Independent pixels."""
    return GaussianPrior(jnp.zeros(shape), Diagonal(jnp.full(shape, 0.25)), linear())


def kept(share):
    """Keeps the first so many of 64 pixels."""
    return Mask((np.arange(64) < 64 * share).astype(np.float32).reshape(8, 8, 1))


def set_up(method, task, operator, shape=(8, 8, 3), **chosen):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    y = jnp.zeros(jax.eval_shape(operator, x).shape, jax.eval_shape(operator, x).dtype)
    return make_run(method, task, white(*shape), Measurement(operator, y, SIGMA_Y), 250, HyperParameters(**chosen))


@pytest.mark.parametrize(
    ("operator", "share"),
    [(Identity(), 1), (GaussianBlur(1.0), 1), (kept(0.25), 0.25), (BlockMean(2), 0.25), (Waves(), 1)],
)
def test_steps_go_with_the_root_of_the_number_of_measured_entries(operator, share):
    zeta = set_up("dps", "inpaint", operator).sampler.zeta
    assert zeta == pytest.approx(MATCHED_ZETA * share**0.5 * (192 / 196608) ** 0.5 * 4)
    assert set_up("dps", "inpaint", operator, zeta=3.0).sampler.zeta == pytest.approx(3.0 * (192 / 196608) ** 0.5 * 4)


def test_any_integrator_takes_the_steps_of_a_guided_prior():
    for method in ("mmps", "ddnm"):
        made = [type(set_up(method, "inpaint", Identity(), integrator=name).sampler) for name in INTEGRATORS]
        assert made == [DDPM, DDIM, DPMSolver, Heun]
        with pytest.raises(UserError, match="integrator"):
            set_up(method, "inpaint", Identity(), integrator="euler")


def test_a_denoiser_of_low_noise_takes_the_methods_of_photographs_whatever_its_folder_is_called(tmp_path):
    config = PriorConfig(FFDNetConfig(8, 8, 2), target="x0", variance="fixed_small")
    save_prior(tmp_path / "faces-32", random_weights(config.network), config)
    prior = load_prior(tmp_path / "faces-32")
    assert {task: best_method(task, prior) for task in PHOTO_METHODS} == PHOTO_METHODS
    assert default_steps(prior) == 10
    with pytest.raises(UserError, match="knows low noise only, which is not enough to colourise"):
        best_method("colourise", prior)
    of_all_times = white(8, 8, 3)
    assert (best_method("inpaint", of_all_times), default_steps(of_all_times)) == ("dps", 250)


def test_large_images_take_the_settings_of_the_reports():
    large = (256, 256, 1)
    for task in ("inpaint", "deblur"):
        assert set_up("dps", task, Identity(), large).sampler.zeta == pytest.approx(ZETA[task] * 3**-0.5 * 4)
        assert set_up("score-ald", task, Identity(), large).sampler.gamma_clean == GAMMA[task][0] / 4
        assert set_up("score-ald", task, Identity()).sampler.gamma_clean == SMALL_GAMMA[task][0] / 4


@pytest.mark.thorough
def test_a_blur_is_fitted_as_well_as_its_noise_allows():
    prior = white(8, 8, 3)
    measurement = measure(jax.random.key(1), GaussianBlur(1.2), prior.sample(jax.random.key(0)), SIGMA_Y)
    run = make_run("dps", "deblur", prior, measurement, 60)
    sample = sample_many(run.sampler, jax.random.split(jax.random.key(2), 1), run.times)[0]
    assert 0.8 < float(measurement.residual_ratio(sample)) < 1.3
