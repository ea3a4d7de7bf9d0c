"""The drawn faces: deterministic, smooth, the same at every size, and different from each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import faces

KEYS = jax.random.split(jax.random.key(0), 256)


def pool(images, factor):
    n, height, width, channels = images.shape
    blocks = images.reshape(n, height // factor, factor, width // factor, factor, channels)
    return blocks.mean((2, 4))


@pytest.fixture(scope="module")
def drawn():
    """All 256 faces at 32 pixels."""
    return np.asarray(jax.jit(jax.vmap(lambda key: faces.draw_face(key, 32)))(KEYS))


@pytest.fixture(scope="module")
def attributes():
    return jax.jit(jax.vmap(faces.sample_face))(KEYS)


@pytest.mark.thorough
def test_draw_fills_the_range_and_stays_in_it(drawn):
    assert drawn.shape == (256, 32, 32, 3)
    assert drawn.dtype == np.float32
    assert np.isfinite(drawn).all()
    assert -1 <= drawn.min() < -0.9
    assert 0.9 < drawn.max() <= 1


@pytest.mark.slow
def test_the_same_key_is_the_same_face_alone_or_in_a_batch(drawn):
    one = jax.jit(faces.draw_face, static_argnums=1)
    for i in (0, 7, 200):
        np.testing.assert_array_equal(one(KEYS[i], 32), one(KEYS[i], 32))
        # Two compilations round differently, and an edge one step wide magnifies it.
        np.testing.assert_allclose(one(KEYS[i], 32), drawn[i], atol=2e-4)


@pytest.mark.slow
def test_a_face_is_the_same_at_every_size(drawn, attributes):
    few = jax.tree.map(lambda leaf: leaf[:64], attributes)
    large = np.asarray(jax.jit(jax.vmap(lambda face: faces.render(face, 64)))(few))
    difference = np.abs(pool(large, 2) - drawn[:64]).mean((1, 2, 3))
    # Measured: 0.003 on average, 0.008 at worst; another face differs by 0.4.
    assert difference.max() < 0.015
    assert np.abs(pool(large, 2) - np.roll(drawn[:64], 1, 0)).mean() > 0.3


@pytest.mark.thorough
def test_edges_are_smooth_so_that_finer_sampling_changes_little(drawn, attributes):
    few = jax.tree.map(lambda leaf: leaf[:64], attributes)
    finer = jax.jit(jax.vmap(lambda face: faces.render(face, 32, supersample=4)))(few)
    change = np.abs(finer - drawn[:64])
    # Measured: 0.003 on average and 0.26 in the worst of 200,000 values.
    assert change.mean() < 0.006
    assert change.max() < 0.5


def test_no_two_faces_are_alike(drawn):
    flat = drawn.reshape(256, -1).astype(np.float64)
    norms = (flat**2).sum(1)
    squares = norms[:, None] + norms - 2 * flat @ flat.T + 1e9 * np.eye(256)
    # Root mean square over the values of the closest pair; measured: 0.23.
    assert np.sqrt(squares.min() / flat.shape[1]) > 0.12


@pytest.mark.parametrize(
    ("region", "bound"),
    [
        pytest.param(np.s_[:, 14:18, 8:24], 0.3, id="eyes"),
        pytest.param(np.s_[:, 20:26, 12:20], 0.25, id="mouth"),
        pytest.param(np.s_[:, 2:8, 12:20], 0.3, id="hair"),
        pytest.param(np.s_[:, :4, :4], 0.25, id="background"),
    ],
)
def test_every_region_varies_from_face_to_face(drawn, region, bound):
    # Measured: 0.41, 0.36, 0.47 and 0.36, of about 0.58 for values uniform in [-1, 1].
    assert drawn[region].std(0).mean() > bound


def test_skin_runs_from_dark_to_light(attributes):
    luminance = attributes.head.skin[:, :, 0, 0] @ np.array([0.3, 0.59, 0.11])
    low, middle, high = np.percentile(luminance, [5, 50, 95])
    assert low < 0.3
    assert 0.45 < middle < 0.7
    assert high > 0.75


@pytest.fixture(scope="module")
def render():
    """`faces.render` at 32 pixels for 16 faces, compiled once."""
    return jax.jit(jax.vmap(lambda face: faces.render(face, 32)))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("part", "field", "low", "high"),
    [
        ("eyes", "gaze_x", -0.09, 0.09),
        ("eyes", "open", 0.0, 1.1),
        ("eyes", "brow_angle", -0.35, 0.35),
        ("mouth", "smile", -0.12, 0.22),
        ("mouth", "open", 0.0, 0.34),
        ("outfit", "glasses", 0.0, 1.0),
        ("hair", "present", 0.0, 1.0),
    ],
)
def test_one_attribute_changes_the_face_and_nothing_else(attributes, render, part, field, low, high):
    few = jax.tree.map(lambda leaf: leaf[:16], attributes)
    few = few._replace(outfit=few.outfit._replace(shades=jnp.zeros(16), hat=jnp.zeros(16)))

    def draw_with(value):
        changed = getattr(few, part)._replace(**{field: jnp.full(16, value, jnp.float32)})
        return np.asarray(render(few._replace(**{part: changed})))

    change = np.abs(draw_with(low) - draw_with(high)).max(-1)
    # Visible at 32 pixels: in most faces some pixel moves by a fifth of the range or more.
    assert np.median(change.max((1, 2))) > 0.4
    if part != "hair":
        np.testing.assert_array_equal(change[:, :2, :2], 0)


def test_attributes_of_eyes_and_mouth_are_independent(attributes):
    names = ["open", "gaze_x", "gaze_y", "brow_angle"]
    columns = [getattr(attributes.eyes, name) for name in names]
    columns += [attributes.mouth.smile, attributes.mouth.open, attributes.head.skin[:, 0, 0, 0]]
    correlation = np.corrcoef(np.stack(columns)) - np.eye(len(columns))
    # 21 pairs from 256 faces: standard error 1 / 16, so this is four of them.
    assert np.abs(correlation).max() < 0.25


def test_left_and_right_are_alike_on_average(drawn):
    mean = drawn.mean(0)
    error = drawn.std(0) / np.sqrt(len(drawn))
    z = (mean - mean[:, ::-1]) / np.hypot(error, error[:, ::-1])
    # Neighbouring pixels move together, so these are few independent numbers, each of unit size.
    assert np.abs(z).max() < 4.5
    assert np.sqrt((z**2).mean()) < 1.5


@pytest.mark.parametrize(("size", "supersample"), [(0, 2), (32, 0)])
def test_render_refuses_an_empty_picture(attributes, size, supersample):
    face = jax.tree.map(lambda leaf: leaf[0], attributes)
    with pytest.raises(ValueError, match="must be at least 1"):
        faces.render(face, size, supersample)
