"""Training the high-noise expert: its data, and runs that are cut and go on."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import train_faces
from experiments.shared.training import forget_after, open_run
from experiments.train import __main__ as script
from experiments.train.crops import random_crops, read_photographs
from experiments.train.leaves import draw_leaves
from jaxdiff.errors import UserError
from jaxdiff.images.files import write_image
from jaxdiff.priors.storage import read_prior
from jaxdiff.priors.training import stratified_times


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("first.png", "last.png", "kept.png"):
        write_image(tmp_path / "photos" / name, rng.uniform(-1, 1, (24, 20, 3)).astype(np.float32))
    return tmp_path / "photos"


def test_leaves_are_pictures_of_their_key_with_edges_and_flat_parts():
    draw = jax.jit(jax.vmap(lambda key: draw_leaves(key, 32)))
    keys = jax.random.split(jax.random.key(0), 16)
    leaves = np.asarray(draw(keys))
    assert leaves.shape == (16, 32, 32, 3)
    assert np.abs(leaves).max() <= 1
    np.testing.assert_array_equal(draw(keys), leaves)
    assert leaves.std((1, 2, 3)).min() > 0.02
    assert np.abs(leaves[0] - leaves[1]).mean() > 0.05
    # Heavy tails are what edges make: differences of neighbours are often small and sometimes large.
    slopes = np.diff(leaves, axis=2).mean(-1)
    assert np.mean(slopes**4) / np.mean(slopes**2) ** 2 > 6


def test_photographs_are_halved_by_areas_and_the_held_out_ones_left_out(photos):
    train, held_out = read_photographs(photos, ("kept.png",))
    assert (len(train), len(held_out)) == (2, 1)
    whole, half, quarter = held_out[0]
    assert [level.shape for level in (whole, half, quarter)] == [(24, 20, 3), (12, 10, 3), (6, 5, 3)]
    np.testing.assert_allclose(half, whole.reshape(12, 2, 10, 2, 3).mean((1, 3)), atol=1)
    np.testing.assert_allclose(quarter, whole.reshape(6, 4, 5, 4, 3).mean((1, 3)), atol=1)
    with pytest.raises(UserError, match=r"no other.png in"):
        read_photographs(photos, ("other.png",))
    with pytest.raises(UserError, match="to train on"):
        read_photographs(photos, ("first.png", "last.png", "kept.png"))


def test_crops_are_turned_and_flipped_pieces_at_all_scales_that_fit():
    plain = np.arange(9 * 8 * 3, dtype=np.uint8).reshape(9, 8, 3)
    pyramid = [plain, 255 - plain[:6, :6], plain[:3, :4]]
    crops = random_crops(np.random.default_rng(0), [pyramid], 400, 5)
    pieces = {
        turned.tobytes()
        for level in pyramid[:2]
        for top in range(level.shape[0] - 4)
        for left in range(level.shape[1] - 4)
        for k in range(4)
        for turned in (np.rot90(level[top : top + 5, left : left + 5], k),)
    }
    found = {crop.tobytes() for crop in crops}
    mirrored = {np.frombuffer(p, np.uint8).reshape(5, 5, 3)[:, ::-1].tobytes() for p in pieces}
    assert found <= pieces | mirrored
    assert len(found) > 0.7 * len(pieces | mirrored)
    with pytest.raises(UserError, match="smaller than a crop of 10"):
        random_crops(np.random.default_rng(0), [pyramid], 1, 10)


def test_times_start_where_the_other_expert_ends():
    t = stratified_times(jax.random.key(0), 90, 1000, 100)
    assert ((t - 100) // 10 == jnp.arange(90)).all()


def weights_of(folder):
    return read_prior(folder / "prior")[0]


def steps_in(path):
    with path.open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


@pytest.mark.thorough
def test_a_run_that_was_cut_is_the_whole_run_bit_for_bit(tmp_path, photos, capsys):
    whole = script.Config(
        photos, tmp_path / "whole", held_out=("kept.png",), sizes=(8,), steps=3, batch_size=4, channels=8,
        channel_mult=(1,), norm_groups=4, checkpoint_every=1, log_every=1,
    )  # fmt: skip
    script.main(whole)
    cut = dataclasses.replace(whole, out=tmp_path / "cut", minutes=1e-9)
    script.main(cut)
    assert steps_in(cut.out / "held_out.csv") == [1]
    # As if it had been killed while it took step 2.
    with (cut.out / "loss.csv").open("a") as file:
        file.write("2,9,9,9,9\n3,9")
    script.main(dataclasses.replace(cut, minutes=None))
    assert "going on from step 1" in capsys.readouterr().out
    for name in ("loss.csv", "held_out.csv"):
        assert steps_in(cut.out / name) == steps_in(whole.out / name) == [1, 2, 3]
    jax.tree.map(np.testing.assert_array_equal, weights_of(cut.out), weights_of(whole.out))
    _, config = read_prior(whole.out / "prior")
    assert (config.target, config.network.patch, config.source["first_time"]) == ("v", 2, 100)  # pyright: ignore
    script.main(whole)
    assert steps_in(whole.out / "loss.csv") == [1, 2, 3]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 3}, "--batch-size must be even"),
        ({"sizes": (64, 20)}, "--sizes must be multiples of 8"),
        ({"steps": 0}, "--steps must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        script.Config(tmp_path, **changed)


def as_before(folder, config):
    """A run that was begun before folders were claimed."""
    (folder / "checkpoints" / "50").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config), default=str))
    (folder / "loss.csv").write_text("step,loss\n50,0.1\n60,0.2\n")


def test_a_run_that_was_begun_before_folders_were_claimed_goes_on(tmp_path):
    config = script.Config(tmp_path / "photos", tmp_path / "run")
    as_before(config.out, config)
    open_run(config, script.PROGRAM, config.photos)
    forget_after(config.out / "loss.csv", 50)
    assert steps_in(config.out / "loss.csv") == [50]
    open_run(config, script.PROGRAM, config.photos)


def test_only_such_a_run_goes_on(tmp_path):
    config = script.Config(tmp_path / "photos", tmp_path / "run")
    as_before(config.out, config)
    with pytest.raises(UserError, match="no results of another script"):
        open_run(train_faces.Config(out=config.out), "another script", None)
    (config.out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"no results of python -m experiments\.train"):
        open_run(config, script.PROGRAM, config.photos)
