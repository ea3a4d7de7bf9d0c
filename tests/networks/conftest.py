"""What tests of layers share."""

from jax import lax


def plain(x, kernel, stride):
    """PyTorch's convolution: zero padding by half the kernel on both sides."""
    padding = [(k // 2, k // 2) for k in kernel.shape[:2]]
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
