"""Phase retrieval: a Fourier transform of which only the amplitudes are measured."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxdiff.pytree import pytree, static


@pytree
class PhaseRetrieval:
    r"""Amplitudes of the Fourier transform of the picture with zeros around it, of every colour: `A(x) = |F P x|`.

    `F` is orthonormal, and `P` adds `int(oversampling / 8 * side)` zeros at both ends of each side, so that 2.0 makes
    the sides 1.5 times as long.

    Several pictures have the same amplitudes, and a chain ends at any of them:

    - the picture turned by 180 degrees, of every colour by itself;
    - `-x`, the negative, without the shift to [0, 1]; with it a negative is no picture, as it would be darker than
      black;
    - a translated picture, as far as what surrounds it stays black. Without the shift, black is a grey of the middle.

    Draw several chains, and keep those of the smallest residual.

    Args:
        oversampling: 2.0 in the DPS paper and DAPS.
        shifted: whether the image is brought to [0, 1] first, as `(x + 1) / 2`. DAPS does; the DPS code does not.

    Raises:
        ValueError: if `oversampling` is negative or not finite.

    References:
        Chung et al., 2022, https://arxiv.org/abs/2209.14687, appendix. Zhang et al., 2024,
        https://arxiv.org/abs/2407.01521.
    """

    oversampling: float = static(default=2.0)
    shifted: bool = static(default=True)

    def __post_init__(self) -> None:
        if not 0 <= self.oversampling < float("inf"):
            raise ValueError(f"`oversampling` must be zero or positive, got {self.oversampling}.")

    def __call__(self, x: Num[Array, "h w c"]) -> Float[Array, "_ _ c"]:
        """Transforms the padded image, and takes absolute values."""
        wide = x.astype(jnp.promote_types(jnp.result_type(x, float), jnp.float32))
        wide = (wide + 1) / 2 if self.shifted else wide
        rows, columns = (int(self.oversampling / 8 * side) for side in x.shape[:2])
        padded = jnp.pad(wide, ((rows, rows), (columns, columns), (0, 0)))
        return jnp.abs(jnp.fft.fft2(padded, axes=(0, 1), norm="ortho")).astype(jnp.result_type(x, float))
