"""Samples `(n, h, w, c)` of a posterior, one image per seed: moments, quantiles, calibration and a proper score."""

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxdiff.pytree import pytree, static

Samples = Float[ArrayLike, "n h w c"]
Image = Float[ArrayLike, "h w c"]


@pytree
class Summary:
    r"""Mean, standard deviation and quantiles of every entry over seeds, without holding the samples.

    .. math::
        \delta = \bar x_b - \bar x_a, \quad \bar x = \bar x_a + \frac{n_b}{n} \delta, \quad
        M = M_a + M_b + \frac{n_a n_b}{n} \delta^2, \quad n = n_a + n_b

    joins two groups `a` and `b`, whose squared deviations from their own mean sum to `M`; stable in float32, unlike
    `E[x^2] - E[x]^2`. Quantiles come from a histogram per entry. The memory is `num_bins + 2` numbers of four bytes per
    entry, for any number of samples: 102 MB for 256x256x3 and 128 bins. Begin with `Summary.start`.

    Attributes:
        count: number of samples, below 2^31.
        mean: their mean; 0 before the first.
        squares: sum of the squared deviations from the mean.
        histogram: how many samples fell into each of the equal bins of [low, high]; those outside are in the end bins.
        low, high: where the first bin begins and the last one ends.

    References:
        Chan, Golub & LeVeque, 1983, "Algorithms for computing the sample variance: analysis and recommendations".
    """

    count: Int[Array, ""]
    mean: Float[Array, "h w c"]
    squares: Float[Array, "h w c"]
    histogram: Int[Array, "h w c num_bins"]
    low: float = static()
    high: float = static()

    @classmethod
    def start(
        cls, image_shape: tuple[int, int, int], num_bins: int = 128, low: float = -1, high: float = 1
    ) -> "Summary":
        """Returns the summary of no samples.

        Raises:
            ValueError: if the shape is not `(h, w, c)`, there is no bin, or `low` is not below `high`.
        """
        if len(image_shape) != 3 or num_bins < 1 or not low < high:
            raise ValueError(f"need (h, w, c), `num_bins` > 0, `low` < `high`; got {image_shape, num_bins, low, high}.")
        zeros = jnp.zeros(image_shape)
        return cls(jnp.int32(0), zeros, zeros, jnp.zeros((*image_shape, num_bins), jnp.int32), float(low), float(high))

    @jax.jit
    def add(self, samples: Samples) -> "Summary":
        """Returns the summary with any number of samples more.

        Raises:
            ValueError: if there is no sample, or they are not float images of the summary's shape.
        """
        samples, _ = _checked(samples, self.mean)
        # Relative to one of the samples, so that a large common offset costs no digits.
        offsets = samples - samples[0]
        middle = offsets.mean(0)
        squares = jnp.sum((offsets - middle) ** 2, axis=0)
        num_bins, count = self.histogram.shape[-1], jnp.int32(len(samples))
        bins = jnp.clip((samples - self.low) / (self.high - self.low) * num_bins, 0, num_bins - 1).astype(jnp.int32)
        # Comparing with every bin, fused under jit, is faster than a scatter on a CPU.
        histogram = jnp.sum(bins[..., None] == jnp.arange(num_bins), axis=0, dtype=jnp.int32)
        return self.merge(type(self)(count, samples[0] + middle, squares, histogram, self.low, self.high))

    def merge(self, other: "Summary") -> "Summary":
        """Returns the summary of the samples of both: of two chunks, devices or hosts.

        Raises:
            ValueError: if the summaries differ in image shape, number of bins, `low` or `high`.
        """
        mine, others = ((s.histogram.shape, s.low, s.high) for s in (self, other))
        if mine != others:
            raise ValueError(f"summaries must agree in ((h, w, c, num_bins), low, high), got {mine} and {others}.")
        count = self.count + other.count
        share, delta = other.count / jnp.maximum(count, 1), other.mean - self.mean
        squares = self.squares + other.squares + delta**2 * self.count * share
        mean, histogram = self.mean + share * delta, self.histogram + other.histogram
        return type(self)(count, mean, squares, histogram, self.low, self.high)

    @property
    def std(self) -> Float[Array, "h w c"]:
        """The standard deviation, with `count - 1` in the denominator; nan below two samples."""
        return jnp.sqrt(self.squares / jnp.where(self.count > 1, self.count - 1, jnp.nan))

    def quantile(self, q: float | Array) -> Float[Array, "h w c"]:
        """Returns the `q`-quantile of every entry, off by at most one bin width; nan before the first sample.

        NumPy's default rule: linear between the two sorted samples next to place `(count - 1) q`. Of those the
        histogram knows the bins; samples are taken to be spread evenly in one, and clipped to [low, high].

        Raises:
            ValueError: if `q` is outside [0, 1].
        """
        if not isinstance(q, Tracer) and not 0 <= q <= 1:
            raise ValueError(f"`q` must be in [0, 1], got {q}.")
        place = (self.count - 1) * q
        below = jnp.floor(place).astype(jnp.int32)
        first, second = self._value(below), self._value(jnp.minimum(below + 1, self.count - 1))
        return first + (place - below) * (second - first)

    def _value(self, index: Array) -> Array:
        bins = self._bin(index)
        inside = jnp.take_along_axis(self.histogram, bins, -1)
        above = index - jnp.take_along_axis(jnp.cumsum(self.histogram, axis=-1), bins, -1) + inside
        return self._edge(bins + (above + 0.5) / jnp.where(inside > 0, inside, jnp.nan))

    def _bin(self, index: Array) -> Array:
        return jnp.sum(jnp.cumsum(self.histogram, axis=-1) <= index, axis=-1, keepdims=True)

    def _edge(self, bins: Array) -> Array:
        return (self.low + (self.high - self.low) * bins / self.histogram.shape[-1])[..., 0]


def coverage(
    samples: Samples | Summary, truth: Image, level: float | Array, where: Bool[ArrayLike, "h w c"] | None = None
) -> Float[Array, ""]:
    r"""Returns the fraction of entries whose truth lies in the central interval of the samples.

    .. math:: x_{(k)} \le x_0 \le x_{(n + 1 - k)}, \quad k = \mathrm{round}((n + 1)(1 - \mathtt{level}) / 2)

    with sorted samples and `k` kept in `1 ... n // 2`. Compare with `expected_coverage(n, level)`, the nearest that `n`
    samples allow: less means samples that are too sure or biased, more means samples too spread.

    Entries of one image are correlated, so its coverage scatters more than coin tosses: judge the mean over images. It
    is silent on sharpness: prior samples, blind to `y`, are calibrated too. Ties count as covered: leave out pixels
    clipped to -1 or 1 or measured without noise, or use `ranks`. A summary's interval reaches to the outer edges of its
    bins, about half a bin more at each end; values outside [low, high] count as if clipped.

    Args:
        samples: at least two, or a summary of as many (not checked while its count is traced).
        truth: the true image.
        level: above 0 and below 1.
        where: the entries to count, for instance the hidden ones; all by default.

    Raises:
        ValueError: if `level` is out of range, there are fewer than two samples, or the shapes do not fit.
    """
    if isinstance(samples, Summary):
        truth = jnp.clip(_checked(samples.mean[None], truth)[1], samples.low, samples.high)
        n, k = samples.count, _depth(samples.count, level)
        lower, upper = samples._edge(samples._bin(k - 1)), samples._edge(samples._bin(n - k) + 1)
    else:
        samples, truth = _checked(samples, truth, least=2)
        k, ordered = _depth(len(samples), level), jnp.sort(samples, axis=0)
        lower, upper = ordered[k - 1], ordered[len(samples) - k]
    return jnp.mean((lower <= truth) & (truth <= upper), where=where)


def expected_coverage(num_samples: int | Int[Array, ""], level: float | Array) -> Float[Array, ""]:
    """Returns the mean `coverage` of exchangeable samples and truth, `(n + 1 - 2 k) / (n + 1)`.

    Exact for every continuous distribution: the truth then takes each of the `n + 1` places among the samples equally
    often. Never above `(n - 1) / (n + 1)`: a level of 0.9 needs 19 samples.

    Raises:
        ValueError: if `level` is not above 0 and below 1, or there are fewer than two samples.

    >>> print(f"{expected_coverage(19, 0.9):.3f} {expected_coverage(8, 0.9):.3f}")
    0.900 0.778
    """
    return 1 - 2 * _depth(num_samples, level) / (num_samples + 1)


def ranks(key: PRNGKeyArray, samples: Samples, truth: Image) -> Int[Array, "h w c"]:
    """Returns how many samples lie below the truth, from 0 to `n`: uniform when they are exchangeable.

    Args:
        key: splits ties: of `m` samples equal to the truth, 0 ... `m` count as below, each equally likely.

    Raises:
        ValueError: if the samples and the truth are not float images that fit.
    """
    samples, truth = _checked(samples, truth)
    share = jax.random.uniform(key, truth.shape) * (1 + jnp.sum(samples == truth, 0))
    return jnp.sum(samples < truth, 0) + share.astype(jnp.int32)


def rank_histogram(ranks: Int[ArrayLike, "..."], num_samples: int, num_bins: int | None = None) -> Int[Array, " b"]:
    """Counts ranks in bins: flat when calibrated, U-shaped when too sure, a hill when too spread, sloped when biased.

    Args:
        ranks: from `ranks`. Entries of one image are correlated: test flatness on those of independent images.
        num_samples: the number `n` of samples they were counted among.
        num_bins: a divisor of `n + 1`, so that every bin holds equally many ranks; `n + 1` by default.

    Raises:
        ValueError: if `num_bins` does not divide `n + 1`, or the ranks are not integers in `0 ... n`.

    References:
        Talts et al., 2018, https://arxiv.org/abs/1804.06788, theorem 1 (simulation-based calibration).

    >>> print(rank_histogram(jnp.array([0, 0, 1, 2, 3, 3]), num_samples=3, num_bins=2))
    [3 3]
    """
    places, ranks = num_samples + 1, jnp.asarray(ranks)
    num_bins = places if num_bins is None else num_bins
    if num_bins < 1 or places % num_bins:
        raise ValueError(f"`num_bins` must divide `num_samples` + 1 = {places}, got {num_bins}.")
    if ranks.dtype.kind not in "iu" or (not isinstance(ranks, Tracer) and jnp.any((ranks < 0) | (ranks > num_samples))):
        raise ValueError(f"`ranks` must be integers in 0 ... {num_samples}; count them among as many samples.")
    return jnp.bincount(ranks.ravel() // (places // num_bins), length=num_bins)


def energy_score(samples: Samples, truth: Image) -> Float[Array, ""]:
    r"""Returns the energy score of the samples: lower is better.

    .. math:: \frac{1}{n} \sum_i \|x_i - x_0\| - \frac{1}{2 n (n - 1)} \sum_{i \ne j} \|x_i - x_j\|

    The norm is Euclidean over the image. The score is strictly proper: its mean over truths is lowest for samples of
    the true posterior, so that bias, too much and too little spread all cost. For one entry it is the CRPS. Leaving out
    `i = j` makes it unbiased; it may be negative. The reference has the other sign. Time grows as `n^2`, memory as `n`.

    Raises:
        ValueError: if there are fewer than two samples, or the arrays are not float images that fit.

    References:
        Gneiting & Raftery, 2007, "Strictly proper scoring rules, prediction, and estimation", equation 22.
    """
    samples, truth = _checked(samples, truth, least=2)
    n = len(samples)
    between = jax.lax.map(lambda x: _distances(samples, x).sum(), samples).sum()
    return _distances(samples, truth).mean() - between / (2 * n * (n - 1))


def _distances(samples: Array, x: Array) -> Array:
    squared = jnp.sum((samples - x) ** 2, axis=(1, 2, 3))
    # The inner where keeps the gradient at distance zero from being nan.
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


def _depth(num_samples: int | Array, level: float | Array) -> Array:
    """The `k` of `coverage`."""
    if not (isinstance(level, Tracer) or 0 < level < 1) or not (isinstance(num_samples, Tracer) or num_samples > 1):
        raise ValueError(f"need 0 < `level` < 1 and at least two samples, got {level} and {num_samples}.")
    depth = jnp.round((num_samples + 1) * (1 - jnp.asarray(level)) / 2).astype(jnp.int32)
    return jnp.clip(depth, 1, num_samples // 2)


def _checked(samples: ArrayLike, truth: ArrayLike, least: int = 1) -> tuple[Array, Array]:
    samples, truth = jnp.asarray(samples), jnp.asarray(truth)
    floating = all(jnp.issubdtype(x.dtype, jnp.floating) for x in (samples, truth))
    if not floating or samples.ndim != 4 or len(samples) < least or truth.shape != samples.shape[1:]:
        raise ValueError(
            f"need at least {least} float samples (n, h, w, c) and a float image (h, w, c) of their shape, got "
            f"{samples.dtype} {samples.shape} and {truth.dtype} {truth.shape}."
        )
    return samples.astype(jnp.float32), truth.astype(jnp.float32)
