"""Presets against the numbers of the papers and their code, written out by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jaxdiff.errors import UserError
from jaxdiff.operators import Bicubic, BlockMean, Grey, HighDynamicRange, PhaseRetrieval
from jaxdiff.presets import PRESETS, preset

SHAPE = (256, 256, 3)
KEY = jax.random.key(0)

SIGMA = {"dps2022": 0.05, "daps": 0.05, "ddrm": 0.10, "diffpir": 0.10}
"""In [-1, 1] units."""
ON_HIDDEN = {("dps2022", "box"), ("dps2022", "random"), ("daps", "box"), ("daps", "random")}
EVERY = [(name, task) for name, tasks in PRESETS.items() for task in tasks]


def operator_of(name: str, task: str, key: Any = KEY, shape: tuple[int, int, int] = SHAPE) -> Any:
    return preset(name, task, key, shape).operator


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "task"), EVERY)
def test_noise_has_the_level_of_the_paper_where_the_paper_has_it(name, task):
    made = preset(name, task, KEY, (32, 32, 3))
    sigma_y = 0.0 if (name, task) == ("diffpir", "random") else SIGMA[name]
    x = jnp.linspace(-0.9, 0.9, 3072).reshape(32, 32, 3)
    measurement = made.measure(KEY, x)
    noise, seen = measurement.residual(x), measurement.observed
    assert measurement.sigma_y == sigma_y
    assert abs(float(jnp.std(noise[seen == 1])) - sigma_y) <= 4.5 * sigma_y / (2 * float(seen.sum())) ** 0.5
    assert bool((noise[seen == 0] != 0).any()) == ((name, task) in ON_HIDDEN)


@pytest.mark.parametrize(("name", "margin"), [("dps2022", 16), ("daps", 32)])
def test_boxes_have_128_pixels_and_keep_their_margin(name, margin):
    """The corner is uniform from the margin to `256 - margin - 129`."""
    boxes = [operator_of(name, "box", jax.random.key(seed)) for seed in range(100)]
    assert {(box.height, box.width) for box in boxes} == {(128, 128)}
    corners = np.array([(box.top, box.left) for box in boxes])
    first, last = margin, 256 - margin - 129
    assert corners.min() >= first
    assert corners.max() <= last
    # The chance that 200 corners all stay clear of a tenth of the range at one end is 7e-10.
    assert corners.min() < first + 0.1 * (last - first)
    assert corners.max() > last - 0.1 * (last - first)
    small = operator_of(name, "box", shape=(32, 48, 3))
    assert (small.height, small.width) == (16, 16)
    assert margin // 8 <= small.left < 48 - margin // 8 - 16


@pytest.mark.parametrize(("name", "hidden"), [("dps2022", 60293), ("daps", 45875), ("diffpir", 32768)])
def test_so_many_pixels_are_hidden_at_random(name, hidden):
    """92, 70 and 50 % of 65536, rounded down."""
    mask = operator_of(name, "random")
    assert int((mask.observed(jnp.ones(SHAPE))[..., 0] == 0).sum()) == hidden


@pytest.mark.parametrize("name", ["dps2022", "daps", "diffpir"])
def test_blurs_are_scipys_gaussian_of_three_pixels(name):
    x = np.random.default_rng(0).normal(size=(256, 256, 1))
    mode = "wrap" if name == "diffpir" else "mirror"
    exact = gaussian_filter(x, 3.0, mode=mode, axes=(0, 1))
    np.testing.assert_allclose(operator_of(name, "blur")(jnp.asarray(x, jnp.float32)), exact, atol=2e-6)


@pytest.mark.parametrize(("shape", "side"), [(SHAPE, 61), ((64, 96, 3), 15), ((32, 32, 3), 7)])
def test_kernels_are_the_same_share_of_the_image(shape, side):
    for name in ("dps2022", "daps", "diffpir"):
        assert operator_of(name, "motion", shape=shape).kernel.shape == (side, side)


def test_other_operators_are_those_of_the_papers():
    made = {row: operator_of(*row) for row in EVERY}
    assert made["dps2022", "upscale"] == made["daps", "upscale"] == Bicubic(4, "mirror")
    assert made["ddrm", "upscale"] == BlockMean(4)
    assert made["ddrm", "colourise"] == Grey((1 / 3, 1 / 3, 1 / 3))
    assert made["dps2022", "phase"] == PhaseRetrieval(2.0, shifted=False)
    assert made["daps", "phase"] == PhaseRetrieval(2.0, shifted=True)
    assert made["daps", "hdr"] == HighDynamicRange(2.0)
    five = [0.9801987, 0.9950125, 1.0, 0.9950125, 0.9801987]
    np.testing.assert_allclose(made["ddrm", "blur"].kernel, np.outer(five, five) / np.sum(five) ** 2, rtol=1e-6)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"unknown preset 'dps'.*dps2022, daps, ddrm, diffpir"):
        preset("dps", "box", KEY, SHAPE)
    with pytest.raises(UserError, match=r"unknown task of ddrm 'phase'; known: blur, upscale, colourise"):
        preset("ddrm", "phase", KEY, SHAPE)
