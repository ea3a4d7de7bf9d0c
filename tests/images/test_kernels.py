"""Blur kernels: a file shows what becomes of a point of light, and shrinks with the picture."""

import numpy as np
import pytest
from PIL import Image

from jaxdiff.images.kernels import check_kernel, read_kernel, scale_kernel
from jaxdiff.images.opening import PictureWarning
from tests.images.conftest import refused, save


def streak(h=5, w=7):
    return np.random.default_rng(3).integers(1, 256, (h, w))


def correlate(x, kernel):
    pad = [(side // 2, side // 2) for side in kernel.shape]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pad), kernel.shape)
    return np.einsum("hwij,ij->hw", windows, kernel)


@pytest.mark.parametrize("kind", ["png", "png16", "alpha", "npy", "npy bool"])
def test_a_kernel_file_shows_what_becomes_of_a_point_of_light(tmp_path, kind):
    values, path = streak(), tmp_path / f"k.{kind[:3]}"
    if kind == "png16":
        path = tmp_path / "k.png"
        Image.fromarray((values * 257).astype(np.uint16)).save(path)
    elif kind == "alpha":
        path = save(tmp_path / "k.png", np.stack([np.full_like(values, 255)] * 3 + [values], axis=-1))
    elif kind == "png":
        save(path, values)
    else:
        values = values > 99 if "bool" in kind else values
        np.save(path, values)
    point = np.zeros((15, 15))
    point[7, 7] = 1
    kernel = read_kernel(path)
    assert kernel.dtype == np.float32
    expected = np.zeros((15, 15))
    expected[5:10, 4:11] = values / values.sum()
    np.testing.assert_allclose(correlate(point, kernel), expected, atol=1e-6)


def test_even_sides_get_zeros_at_the_end_and_empty_margins_go(tmp_path):
    np.save(tmp_path / "k.npy", streak(4, 6))
    turned = read_kernel(tmp_path / "k.npy")[::-1, ::-1]
    np.testing.assert_allclose(turned[:4, :6], streak(4, 6) / streak(4, 6).sum(), rtol=1e-6)
    assert turned.shape == (5, 7)
    np.save(tmp_path / "wide.npy", np.pad(streak(4, 6), [(10, 11), (3, 4)]))
    np.testing.assert_array_equal(read_kernel(tmp_path / "wide.npy")[::-1, ::-1], turned)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.zeros((3, 3)), "no positive sum"),
        (np.array([[1, -1, 0]]) * 0.3, "no positive sum"),
        (-np.ones((3, 3)), "no positive sum"),
        (np.full((3, 3), np.nan), "NaN or infinite"),
        (np.array([[1, np.inf, -np.inf]]), "NaN or infinite"),
        (np.ones((3, 3, 1)), r"must be a matrix .* \(3, 3, 1\)"),
        (np.ones(3), "must be a matrix"),
        (np.ones((3, 3), complex), "real numbers, got complex128"),
        (np.array([["a"]]), "must be a matrix"),
        (np.ones((0, 3)), "whole .npy file|no positive sum"),
        (np.array([[{}]]), "whole .npy file"),
    ],
)
def test_bad_kernels_are_refused(tmp_path, kernel, message):
    np.save(tmp_path / "k.npy", kernel)
    refused(message, read_kernel, tmp_path / "k.npy")


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "huge", "open"])
def test_damaged_kernel_files_are_refused(tmp_path, damage):
    np.save(tmp_path / "k.npy", np.ones((9, 9)))
    whole = (tmp_path / "k.npy").read_bytes()
    huge = whole.replace(b"(9, 9)", b"(9, 9999999999)").replace(b"         ", b"", 1)
    damaged = {"text": b"0 1 0", "empty": b"", "truncated": whole[:-9], "huge": huge, "open": whole.replace(b"}", b" ")}
    (tmp_path / "k.npy").write_bytes(damaged[damage])
    refused("whole .npy file", read_kernel, tmp_path / "k.npy")
    refused(r"there is no kernel .*absent\.npy", read_kernel, tmp_path / "absent.npy")
    save(tmp_path / "black.png", np.zeros((3, 3)))
    refused("no positive sum", read_kernel, tmp_path / "black.png")


def gaussian(std, side):
    taps = np.exp(-0.5 * ((np.arange(side) - side // 2) / std) ** 2)
    return np.outer(taps, taps) / taps.sum() ** 2


def moments(kernel):
    offsets = np.arange(len(kernel)) - len(kernel) // 2
    weights = kernel.sum(axis=1)
    mean = np.sum(weights * offsets)
    return mean, np.sqrt(np.sum(weights * offsets**2) - mean**2)


@pytest.mark.parametrize("scale", [1.0, 500 / 256, 2.0, 3.7])
def test_a_kernel_shrinks_with_the_picture_around_its_centre(scale):
    kernel = scale_kernel(gaussian(6.0, 49).astype(np.float32), scale)
    assert np.all(np.array(kernel.shape) % 2 == 1)
    np.testing.assert_allclose(kernel.sum(), 1, atol=1e-6)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
    mean, std = moments(kernel)
    np.testing.assert_allclose(mean, 0, atol=1e-5)
    np.testing.assert_allclose(std, 6 / scale, rtol=0.04)


def test_a_kernels_orientation_and_shape_are_kept():
    kernel = (streak() / streak().sum()).astype(np.float32)
    np.testing.assert_allclose(scale_kernel(kernel, 1.0), kernel, rtol=1e-6)
    np.testing.assert_allclose(scale_kernel(kernel, 2.5), scale_kernel(kernel[::-1, ::-1], 2.5)[::-1, ::-1], atol=1e-7)
    np.testing.assert_allclose(scale_kernel(kernel, 2.5), scale_kernel(kernel.T, 2.5).T, atol=1e-7)
    assert scale_kernel(kernel, 2.0).shape == (3, 5)


def test_a_blur_within_one_pixel_is_none():
    assert scale_kernel(gaussian(1.0, 5).astype(np.float32), 5.0).tolist() == [[1.0]]
    assert scale_kernel(np.ones((1, 1), np.float32), 1.0).tolist() == [[1.0]]


def test_kernels_larger_than_the_reflected_picture_are_refused():
    check_kernel(np.ones((63, 79), np.float32), (32, 40), "the kernel k.png")
    message = r"the kernel k\.png has 81x1 pixels at the prior's resolution, more than 79x63"
    refused(message, check_kernel, np.ones((1, 81), np.float32), (32, 40), "the kernel k.png")


def stroke(background):
    values = np.broadcast_to(background, (61, 61)).copy()
    values[30, 24:37] = 255
    return values


@pytest.mark.parametrize("kind", ["speckled", "white", "grey"])
def test_weight_on_the_background_is_warned_of(tmp_path, kind):
    speckles = np.random.default_rng(0).integers(0, 4, (61, 61))
    values = {"speckled": stroke(speckles), "white": 255 - stroke(0), "grey": stroke(80)}[kind]
    on_stroke = values[30, 24:37].sum() / values.sum()
    with pytest.warns(PictureWarning, match=f"only {on_stroke:.0%} of its weight on its stroke"):
        read_kernel(save(tmp_path / "k.png", values))


def test_kernels_that_fill_their_picture_are_not_warned_of(tmp_path):
    disc = np.hypot(*np.mgrid[-9:10, -9:10]) <= 9
    tight = np.exp(-0.5 * (np.hypot(*np.mgrid[-9:10, -9:10]) / 5) ** 2)
    for values in (stroke(0), np.full((15, 15), 255), disc * 255, tight * 255, np.pad(np.full((9, 9), 255), 5)):
        assert read_kernel(save(tmp_path / "k.png", values)).sum() == pytest.approx(1)


@pytest.mark.parametrize("suffix", ["mat", "npz", "txt"])
def test_other_files_of_matrices_are_refused(tmp_path, suffix):
    (tmp_path / f"k.{suffix}").write_bytes(b"0 1 0")
    refused("numpy.save", read_kernel, tmp_path / f"k.{suffix}")
