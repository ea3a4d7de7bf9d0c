"""Priors on disk: the round trip, and every way a folder can be bad."""

import dataclasses
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff import PriorError, load_prior
from jaxdiff.networks.unet import UNet, UNetConfig
from jaxdiff.priors.config import PriorConfig
from jaxdiff.priors.storage import parameters, read_prior, save_prior, with_parameters
from tests.conftest import random_weights

TINY = UNetConfig(8, 8, (1, 2), 1, (4,), num_heads=2, out_channels=6, norm_groups=4)


def tiny_weights(seed=0):
    return random_weights(TINY, seed)


def abstract() -> Any:
    return nnx.eval_shape(lambda: UNet(TINY, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "prior"
    save_prior(folder, tiny_weights(), PriorConfig(TINY, source={"file": "x.pt"}))
    return folder


@pytest.fixture
def prior(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "prior")


@pytest.mark.slow
def test_round_trip_is_exact_and_runs(prior):
    weights, config = read_prior(prior)
    assert config == PriorConfig(TINY, source={"file": "x.pt"})
    assert weights.keys() == tiny_weights().keys()
    for name, value in tiny_weights().items():
        np.testing.assert_array_equal(weights[name], value)
    loaded: Any = load_prior(prior)
    x = jax.random.normal(jax.random.key(0), loaded.image_shape)
    network = with_parameters(abstract(), tiny_weights())
    apply = jax.jit(lambda network, x: network(x, 3))
    np.testing.assert_array_equal(apply(loaded.network, x), apply(network, x))
    assert loaded.image_shape == (8, 8, 3)
    assert loaded.variance == "learned_range"
    assert jax.eval_shape(loaded.predict, x, 3).variance_fraction.shape == (8, 8, 3)


@pytest.mark.slow
def test_stored_precision_is_kept_and_computing_is_float32(tmp_path):
    half = {k: v.astype(np.float16) for k, v in tiny_weights().items()}
    save_prior(tmp_path / "half", half, PriorConfig(TINY))
    assert all(w.dtype == np.float16 for w in read_prior(tmp_path / "half")[0].values())
    network: Any = load_prior(tmp_path / "half").network
    assert all(w.dtype == jnp.float32 for w in parameters(network).values())
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtypes"] == ["float16"]


def test_weights_must_fit_exactly():
    network, weights = abstract(), tiny_weights()
    missing = {k: v for k, v in weights.items() if k != "out_conv.bias"}
    for bad, match in [
        (missing, "missing out_conv.bias"),
        (weights | {"extra.bias": np.ones(3)}, "unexpected extra.bias"),
        (weights | {"out_conv.bias": np.ones(7)}, r"out_conv.bias has shape \(7,\), not \(6,\)"),
    ]:
        with pytest.raises(PriorError, match=match):
            with_parameters(network, bad)


@pytest.mark.slow
def test_a_full_folder_is_not_replaced_unasked(prior):
    before = sorted(p.name for p in prior.parent.iterdir())
    with pytest.raises(FileExistsError, match="not empty"):
        save_prior(prior, tiny_weights(1), PriorConfig(TINY))
    save_prior(prior, tiny_weights(1), PriorConfig(TINY), overwrite=True)
    np.testing.assert_array_equal(read_prior(prior)[0]["out_norm.scale"], tiny_weights(1)["out_norm.scale"])
    assert sorted(p.name for p in prior.parent.iterdir()) == before


def test_a_failed_save_leaves_nothing(tmp_path):
    with pytest.raises(PriorError):
        save_prior(tmp_path / "bad", {"nonsense": np.ones(3)}, PriorConfig(TINY))
    assert list(tmp_path.iterdir()) == []


def damage_config(prior):
    (prior / "config.json").write_text("{")


def drop_config(prior):
    (prior / "config.json").unlink()


def drop_weights(prior):
    shutil.rmtree(prior / "weights")


def truncate_weights(prior):
    for path in prior.glob("weights/**/d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def changed(prior, part, **values):
    """Changes values in `config.json`, or in a part of it; None removes one."""
    config = json.loads((prior / "config.json").read_text())
    inner = config[part] if part else config
    inner.update(values)
    for name in [name for name, value in values.items() if value is None]:
        del inner[name]
    (prior / "config.json").write_text(json.dumps(config))


def other_architecture(prior):
    changed(prior, "network", out_channels=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (damage_config, "damaged"),
        (drop_config, "not a prior"),
        (drop_weights, "cannot be read"),
        (truncate_weights, "cannot be read"),
        (other_architecture, "do not fit"),
    ],
)
def test_a_damaged_prior_is_refused_in_one_sentence(prior, damage, match):
    damage(prior)
    with pytest.raises(PriorError, match=match) as error:
        load_prior(prior)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("part", "values", "match"),
    [
        ("", {"network": []}, "damaged"),
        ("", {"source": None}, "'source' is missing"),
        ("", {"target": "eps"}, "`target` cannot be 'eps'"),
        ("", {"variance": 3}, "`variance` cannot be '3'"),
        ("", {"schedule": "linear"}, "`schedule` cannot be 'linear'"),
        ("schedule", {"kind": "quadratic"}, "none of linear, cosine"),
        ("schedule", {"num_times": "many"}, "damaged"),
        ("schedule", {"beta_end": 2}, "betas"),
        ("schedule", {"steps": 10}, "steps"),
        ("network", {"width": 10}, "width"),
        ("network", {"channels": None}, "channels"),
        ("network", {"channels": -8}, "`channels` cannot be '-8'"),
        ("network", {"channels": True}, "`channels` cannot be 'True'"),
        ("network", {"channel_mult": []}, "at least one level"),
        ("network", {"channel_mult": [1, "2"]}, "`channel_mult` cannot be"),
        ("network", {"num_res_blocks": 10**5}, "1 to 100 residual blocks"),
        ("network", {"num_head_channels": 5}, "divide"),
        ("network", {"resblock_updown": "yes"}, "`resblock_updown` cannot be 'yes'"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_in_one_sentence(prior, part, values, match):
    changed(prior, part, **values)
    with pytest.raises(PriorError, match=match) as error:
        load_prior(prior)
    assert "\n" not in str(error.value)
    assert "config.json is damaged: " in str(error.value)


@pytest.mark.parametrize("text", ["[]", "null", "{", "[" * 100_000, "\N{SNOWMAN}"])
def test_a_configuration_that_is_no_configuration_is_refused(prior, text):
    (prior / "config.json").write_text(text)
    with pytest.raises(PriorError, match="damaged"):
        load_prior(prior)


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(PriorError, match=r"no prior named 'faces'.*shipped are"):
        load_prior("faces")


def test_a_published_name_says_how_to_download_it(tmp_path):
    with pytest.raises(PriorError, match=r"`jaxdiff convert download ffhq-256 ffhq-256` makes this one"):
        load_prior("ffhq-256")
    folder = tmp_path / "imagenet-256"
    with pytest.raises(PriorError, match=f"`jaxdiff convert download imagenet-256 {folder}` makes this one"):
        load_prior(folder)


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"image_size": 9}, "multiple of 2"), ({"norm_groups": 3}, "norm_groups"), ({"num_head_channels": 5}, "divide")],
)
def test_bad_architectures_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        nnx.eval_shape(lambda: UNet(dataclasses.replace(TINY, **changes), rngs=nnx.Rngs(0)))


def test_bad_inputs_of_the_network_are_refused():
    network = with_parameters(abstract(), tiny_weights())
    for shape in ((9, 8, 3), (8, 8, 1)):
        with pytest.raises(ValueError, match="x_t"):
            network(jnp.zeros(shape), 0)
    with pytest.raises(ValueError, match="label"):
        network(jnp.zeros((8, 8, 3)), 0, 1)
