import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.metrics.pixels import psnr, ssim


def pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    reference = rng.uniform(-1, 1, shape)
    x = np.clip(reference + 0.2 * rng.normal(size=shape), -1, 1)
    return x.astype(np.float32), reference.astype(np.float32)


def ssim_by_windows(x, reference):
    """The definition, one weighted 11x11 window at a time, in float64."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(taps, taps) / taps.sum() ** 2
    a, b = ((np.asarray(v, np.float64) + 1) / 2 for v in (x, reference))
    h, w, colours = a.shape
    values = []
    for i in range(h - 10):
        for j in range(w - 10):
            for k in range(colours):
                p, q = a[i : i + 11, j : j + 11, k], b[i : i + 11, j : j + 11, k]
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
                covariance = (weights * (p - mp) * (q - mq)).sum()
                structure = (2 * covariance + 0.03**2) / (vp + vq + 0.03**2)
                values.append((2 * mp * mq + 0.01**2) / (mp**2 + mq**2 + 0.01**2) * structure)
    return np.mean(values)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("offset", "decibel"), [(0.2, 20.0), (0.02, 40.0), (2.0, 0.0)])
def test_psnr_of_a_constant_offset_is_known(offset, decibel, channels):
    x = jnp.zeros((5, 7, channels)) - 0.1
    np.testing.assert_allclose(psnr(x + offset, x), decibel, atol=1e-3)


def test_psnr_is_the_formula_and_clips_nothing():
    x, reference = pair((9, 12, 3))
    x = 3 * x
    expected = -10 * np.log10(np.mean((x.astype(np.float64) - reference) ** 2) / 4)
    np.testing.assert_allclose(psnr(x, reference), expected, rtol=1e-5)


def test_equal_images_score_best():
    x, _ = pair((16, 13, 3))
    assert psnr(x, x) == jnp.inf
    np.testing.assert_allclose(ssim(x, x), 1.0, atol=1e-6)


@pytest.mark.parametrize("shape", [(17, 13, 3), (16, 16, 1), (11, 11, 3)])
def test_ssim_is_the_gaussian_window_variant(shape):
    x, reference = pair(shape)
    # float32 variances by E[a^2] - E[a]^2 lose about three digits.
    np.testing.assert_allclose(ssim(x, reference), ssim_by_windows(x, reference), atol=2e-5)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_vmap_and_jit_equal_a_loop(metric):
    pairs = [pair((14, 12, 3), seed) for seed in range(3)]
    xs, references = (jnp.stack(v) for v in zip(*pairs, strict=True))
    batched = jax.jit(jax.vmap(metric))(xs, references)
    np.testing.assert_allclose(batched, [metric(x, r) for x, r in pairs], rtol=1e-5)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("x", "reference", "message"),
    [
        (np.zeros((12, 12, 3), np.uint8), np.zeros((12, 12, 3), np.float32), "`x` must be one fl"),
        (np.zeros((12, 12), np.float32), np.zeros((12, 12), np.float32), r"got float32 \(12, 12\)"),
        (np.zeros((2, 12, 12, 3), np.float32), np.zeros((12, 12, 3), np.float32), "jax.vmap"),
        (np.zeros((12, 12, 3), np.float32), np.zeros((12, 12, 1), np.float32), "equal shapes"),
    ],
)
def test_wrong_images_are_refused(metric, x, reference, message, unchecked):
    with pytest.raises(ValueError, match=message):
        metric(x, reference)


def test_ssim_refuses_images_smaller_than_its_window():
    x, reference = pair((10, 30, 3))
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(x, reference)
