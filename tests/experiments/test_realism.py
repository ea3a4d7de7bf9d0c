"""The ruler of realism, and the denoising error."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from experiments.sdedit.__main__ import Starts
from experiments.shared.problems import load_truth
from experiments.shared.realism import NOISE_DRAWS, denoising_error, fit_ruler, innermost, reference_faces
from experiments.shared.setup import Experiment
from jaxdiff import DDPM, GaussianPrior, load_prior
from jaxdiff.networks.unet import UNet
from jaxdiff.priors.gaussian import Diagonal
from jaxdiff.runs.runner import Drawn, Timing
from jaxdiff.schedule import linear
from tests.conftest import TINY


def two_groups(count, seed):
    """Features whose first axis tells damage, in the second's shadow: it varies far more, and with the first."""
    rng = np.random.default_rng(seed)
    who = rng.normal(size=(count, 1)) * [3.0, 20.0, 0.0]
    whole, damaged = (who + [mark, 0.0, 5.0] + 0.3 * rng.normal(size=(count, 3)) for mark in (1.0, -1.0))
    return whole, damaged


def test_a_ruler_tells_damage_from_identity_whatever_the_units():
    whole, damaged = two_groups(200, 0)
    ruler = fit_ruler(whole, damaged)
    assert ruler(whole).mean() == pytest.approx(1)
    assert ruler(damaged).mean() == pytest.approx(0)
    others = [ruler(group) for group in two_groups(200, 1)]
    # Along the difference of the means alone, identity would spread each group by 1.5.
    assert [x.mean() for x in others] == pytest.approx([1, 0], abs=0.1)
    assert max(x.std() for x in others) < 0.75
    units = np.array([1000.0, 0.01, 7.0])
    np.testing.assert_allclose(fit_ruler(whole * units, damaged * units)(whole * units), ruler(whole), rtol=1e-3)


def test_denoising_error_is_the_closed_form_on_a_gaussian_prior():
    schedule, variance = linear(), 0.01
    prior = GaussianPrior(jnp.zeros((16, 16, 3)), Diagonal(jnp.full((16, 16, 3), variance)), schedule)
    away = 0.3
    found = denoising_error(prior, jnp.stack([jnp.zeros((16, 16, 3)), jnp.full((16, 16, 3), away)]))
    expected = np.zeros(2)
    for t in (20, 50, 100):
        alpha, sigma = map(float, schedule(t))
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        expected += (alpha / sigma) ** 2 * (np.array([0, ((1 - alpha * gain) * away) ** 2]) + (gain * sigma) ** 2) / 3
    np.testing.assert_allclose(found, expected, rtol=3 / (16 * 16 * 3 * NOISE_DRAWS) ** 0.5)


@pytest.mark.thorough
def test_the_innermost_features_have_the_lowest_resolution_of_the_network(tiny_prior):
    prior = load_prior(tiny_prior)
    found = jax.eval_shape(innermost, prior.network, jax.ShapeDtypeStruct((3, 16, 16, 3), jnp.float32), 20)
    assert found.shape == (3, 8, 8, 16)
    config = replace(TINY, image_size=32, patch=2)
    on_blocks = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    found = jax.eval_shape(innermost, on_blocks, jax.ShapeDtypeStruct((3, 32, 32, 3), jnp.float32), 20)
    assert found.shape == (3, 8, 8, 16)


def test_the_ruler_is_made_of_other_faces_or_beside_a_photo_of_samples(normal_prior, tmp_path, monkeypatch, flat_faces):
    config = Starts(prior=normal_prior, face=2, steps=5, out=tmp_path)
    prior, _ = load_truth(normal_prior, None, 0, None)
    experiment = Experiment(prior, jnp.zeros((16, 16, 3)), Console(quiet=True))
    others = reference_faces(config, experiment, 4)
    np.testing.assert_allclose(others[:, 0, 0, 0], [0.0, 0.01, 0.03, 0.04], atol=1e-6)

    def draw(title, run, keys, *args, **kwargs):
        assert isinstance(run.sampler, DDPM)
        assert run.times.tolist() == [999, 749, 500, 250, 0, -1]
        samples = 2 * jax.vmap(lambda key: jax.random.normal(key, (16, 16, 3)))(keys)
        return Drawn(np.asarray(samples), np.zeros((1, 16, 32, 3), np.uint8), Timing(0, 0), False)

    monkeypatch.setattr("experiments.shared.realism.draw", draw)
    samples = reference_faces(replace(config, image=tmp_path / "photo.png"), experiment, 4)
    assert len({np.asarray(sample).tobytes() for sample in samples}) == 4
    assert np.abs(samples).max() == 1
