"""The training script on a tiny network."""

import csv
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import train_faces
from experiments.shared.training import batch_shardings
from jaxdiff import load_prior
from jaxdiff.errors import UserError
from jaxdiff.images.files import read_image, write_image
from jaxdiff.priors.storage import parameters
from jaxdiff.priors.training import TrainState


@pytest.mark.thorough
def test_training_runs_resumes_and_leaves_a_prior(tmp_path, capsys):
    config = train_faces.Config(
        out=tmp_path / "run", size=16, steps=4, batch_size=4, channels=8, channel_mult=(1,), norm_groups=4,
        attention_resolutions=(), checkpoint_every=2, sample_every=4, sample_steps=2,
    )  # fmt: skip
    train_faces.main(config)
    denoiser: Any = load_prior(tmp_path / "run" / "prior")
    assert (denoiser.target, denoiser.variance, denoiser.image_shape) == ("v", "fixed_small", (16, 16, 3))
    assert read_image(tmp_path / "run" / "samples_000004.png").std() > 0
    assert read_image(tmp_path / "run" / "loss.png").min() < 1
    with (tmp_path / "run" / "loss.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["4"]
    train_faces.main(config)
    assert "going on from step 4" in capsys.readouterr().out
    again: Any = load_prior(tmp_path / "run" / "prior")
    new, old = parameters(again.network), parameters(denoiser.network)
    assert all((new[name] == old[name]).all() for name in new)


def test_training_on_a_folder_reads_and_flips_its_images(tmp_path):
    ramp = np.broadcast_to(np.linspace(-1, 1, 16, dtype=np.float32)[None, :, None], (16, 16, 3))
    write_image(tmp_path / "ramp.png", ramp)
    config = train_faces.Config(data=tmp_path, out=tmp_path / "run", size=16)
    write_image(config.out / "samples_000001.png", -ramp)
    stored = train_faces.read_folder(config)
    images = np.asarray(train_faces.training_images(stored, jax.random.split(jax.random.key(0), 16), 16))
    flipped = np.abs(images - ramp[:, ::-1]).max((1, 2, 3)) < 0.01
    straight = np.abs(images - ramp).max((1, 2, 3)) < 0.01
    assert (flipped ^ straight).all()
    assert 0 < flipped.sum() < 16
    with pytest.raises(UserError, match="no png"):
        train_faces.read_folder(train_faces.Config(data=tmp_path / "empty"))


def test_the_folder_is_no_part_of_the_program():
    config = train_faces.Config(size=16, batch_size=4)
    state = TrainState(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()), jnp.zeros((), int))  # pyright: ignore
    advance = train_faces.make_advance(config, lambda state, key, x0: (state, x0), *batch_shardings(4))
    stored = np.random.default_rng(0).integers(0, 256, (100, 16, 16, 3), np.uint8)
    assert len(advance.lower(state, stored, jax.random.key(0)).as_text()) < stored.size
