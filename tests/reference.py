"""The official samplers, restated in float64 numpy from their formulas, with every gradient written out by hand.

It shares no code with the library. A chain is that of guided-diffusion: betas from 1e-4 to 0.02, recomputed for the
times that are kept; `i = 0 ... n-1` counts these. An operator is a dense matrix.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Image = np.ndarray
Guide = Callable[[int, Image, "Estimate"], Image]
Step = Callable[[int, Image, Image], tuple[Image, "Estimate"]]


class Chain:
    """The tables of one respaced chain."""

    def __init__(self, kept: Sequence[int], num_times: int = 1000):
        self.times, self.num_times = sorted(kept), num_times
        betas, last = [], 1.0
        for t, alpha_bar in enumerate(np.cumprod(1 - np.linspace(1e-4, 0.02, num_times))):
            if t in self.times:
                betas.append(1 - alpha_bar / last)
                last = alpha_bar
        self.betas = np.array(betas)
        self.alpha_bar = np.cumprod(1 - self.betas)
        self.alpha_bar_prev = np.append(1.0, self.alpha_bar[:-1])
        self.variance = self.betas * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)
        # The first variance is zero and has no logarithm; the official code puts the second there.
        self.log_variance = np.log(np.append(self.variance[1], self.variance[1:]))
        self.from_x0 = self.betas * np.sqrt(self.alpha_bar_prev) / (1 - self.alpha_bar)
        self.from_x_t = (1 - self.alpha_bar_prev) * np.sqrt(1 - self.betas) / (1 - self.alpha_bar)


def respace(num_steps: int, start: int = 999) -> list[int]:
    """Returns the times that evenly spaced respacing keeps of `0 ... start`."""
    return [round(i * start / (num_steps - 1)) for i in range(num_steps)]


class Network(NamedTuple):
    """Two layers over a whole image and its time; the output is `(eps, v)`, of which `eps` also sees `x_t` directly.

    With `eps = skip x_t + scale f` and `skip, scale` the levels of noise and signal, estimates are of order one at
    every time, as a trained network's are.
    """

    first: np.ndarray
    time: np.ndarray
    second: np.ndarray
    bias: np.ndarray
    skip: np.ndarray
    scale: np.ndarray


def draw_network(shape: tuple[int, int, int], width: int = 32, seed: int = 0) -> Network:
    """Draws weights that float32 holds exactly."""
    rng, size = np.random.default_rng(seed), int(np.prod(shape))
    angles = np.arange(1000)[:, None] * 100.0 ** -np.linspace(0, 1, width // 2)
    time = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    network = Network(
        first=rng.normal(size=(width, size)) / np.sqrt(size),
        time=time @ rng.normal(size=(width, width)) / np.sqrt(width),
        second=rng.normal(size=(2 * size, width)) / np.sqrt(width),
        bias=rng.normal(size=2 * size),
        skip=np.sqrt(1 - alpha_bar),
        scale=np.sqrt(alpha_bar),
    )
    return Network(*(array.astype(np.float32).astype(np.float64) for array in network))


def run_network(network: Network, x_t: Image, t: int) -> tuple[Image, Image, Callable[[Image], Image]]:
    """Returns `eps`, `v`, and the product of a cotangent of `eps` with the Jacobian in `x_t`."""
    h, w, c = x_t.shape
    hidden = np.tanh(network.first @ x_t.ravel() + network.time[t])
    output = (network.second @ hidden + network.bias).reshape(h, w, 2 * c)

    def pull_back(cotangent: Image) -> Image:
        of_output = np.concatenate([network.scale[t] * cotangent, np.zeros_like(cotangent)], axis=2)
        of_hidden = network.second.T @ of_output.ravel()
        of_input = network.first.T @ (of_hidden * (1 - hidden**2))
        return network.skip[t] * cotangent + of_input.reshape(h, w, c)

    return network.skip[t] * x_t + network.scale[t] * output[..., :c], output[..., c:], pull_back


class Estimate(NamedTuple):
    """What the network says: `x0`, the same before the clip, `v`, and a cotangent of `x0` pulled back to `x_t`."""

    x0: Image
    unclipped: Image
    v: Image
    pull_back: Callable[[Image], Image]


def estimate(chain: Chain, network: Network, i: int, x_t: Image) -> Estimate:
    """Runs the network, and turns its noise into a clipped image."""
    eps, v, pull_back_eps = run_network(network, x_t, chain.times[i])
    from_x_t, from_eps = np.sqrt(1 / chain.alpha_bar[i]), np.sqrt(1 / chain.alpha_bar[i] - 1)
    unclipped = from_x_t * x_t - from_eps * eps

    def pull_back(cotangent: Image) -> Image:
        inside = np.where(np.abs(unclipped) < 1, cotangent, 0.0)
        return from_x_t * inside - from_eps * pull_back_eps(inside)

    return Estimate(np.clip(unclipped, -1, 1), unclipped, v, pull_back)


def no_guide(i: int, x_t: Image, estimate: Estimate) -> Image:
    """Samples the prior."""
    return np.zeros_like(x_t)


def ddpm(chain: Chain, network: Network, variance: str = "learned_range", guide: Guide = no_guide) -> Step:
    """The ancestral step, noise included, with guidance added after it."""

    def step(i: int, x_t: Image, noise: Image) -> tuple[Image, Estimate]:
        said = estimate(chain, network, i, x_t)
        if variance == "learned_range":
            fraction = (said.v + 1) / 2
            log_variance = fraction * np.log(chain.betas[i]) + (1 - fraction) * chain.log_variance[i]
        elif variance == "fixed_large":
            log_variance = np.log(np.append(chain.variance[1], chain.betas[1:]))[i]
        else:
            log_variance = chain.log_variance[i]
        x_s = chain.from_x0[i] * said.x0 + chain.from_x_t[i] * x_t
        if i > 0:
            x_s = x_s + np.exp(log_variance / 2) * noise
        return x_s + guide(i, x_t, said), said

    return step


def ddim(chain: Chain, network: Network, eta: float) -> Step:
    """The implicit step; its noise estimate follows from the clipped image."""

    def step(i: int, x_t: Image, noise: Image) -> tuple[Image, Estimate]:
        said = estimate(chain, network, i, x_t)
        a, a_prev = chain.alpha_bar[i], chain.alpha_bar_prev[i]
        eps = (np.sqrt(1 / a) * x_t - said.x0) / np.sqrt(1 / a - 1)
        std = eta * np.sqrt((1 - a_prev) / (1 - a)) * np.sqrt(1 - a / a_prev)
        x_s = np.sqrt(a_prev) * said.x0 + np.sqrt(1 - a_prev - std**2) * eps
        return (x_s + std * noise if i > 0 else x_s), said

    return step


def residual(matrix: np.ndarray, y: np.ndarray, x: Image) -> tuple[np.ndarray, Image]:
    """Returns `r = y - A x`, and `A^T r` as an image."""
    r = y - matrix @ x.ravel()
    return r, (matrix.T @ r).reshape(x.shape)


def dps_official(matrix: np.ndarray, y: np.ndarray, zeta: float) -> Guide:
    """The authors' code: `-zeta` times the gradient of `||r||`."""

    def guide(i: int, x_t: Image, said: Estimate) -> Image:
        r, back = residual(matrix, y, said.x0)
        return zeta * said.pull_back(back / np.sqrt(r @ r))

    return guide


def dps_reports(matrix: np.ndarray, y: np.ndarray, zeta: float) -> Guide:
    """The reports: `-zeta` times the gradient of `||r||^2`, brought to unit length."""

    def guide(i: int, x_t: Image, said: Estimate) -> Image:
        gradient = said.pull_back(-2 * residual(matrix, y, said.x0)[1])
        return -zeta * gradient / np.sqrt(np.sum(gradient**2))

    return guide


def dps_likelihood(chain: Chain, matrix: np.ndarray, y: np.ndarray, sigma_y: float) -> Guide:
    """The paper's equation 11: the score of the likelihood, in the ancestral step's units."""

    def guide(i: int, x_t: Image, said: Estimate) -> Image:
        score = said.pull_back(residual(matrix, y, said.x0)[1]) / sigma_y**2
        return chain.betas[i] / np.sqrt(1 - chain.betas[i]) * score

    return guide


def score_ald(
    chain: Chain, matrix: np.ndarray, y: np.ndarray, gammas: tuple[float, float], weight: Callable[[float], float]
) -> Guide:
    """The reports' annealed pull on `x_t` itself; gamma goes evenly from its value at time 0 to that at the last."""
    table = np.linspace(*gammas, chain.num_times)

    def guide(i: int, x_t: Image, said: Estimate) -> Image:
        return weight(table[chain.times[i]]) * residual(matrix, y, x_t)[1]

    return guide


def run(chain: Chain, step: Step, x: Image, noises: dict[int, Image]) -> tuple[np.ndarray, list[Estimate]]:
    """Runs a whole chain from `x`; returns every `x` after it, and every estimate."""
    images, estimates = [], []
    for i in reversed(range(len(chain.times))):
        x, said = step(i, x, noises[chain.times[i]])
        images.append(x)
        estimates.append(said)
    return np.stack(images), estimates


def mask_matrix(mask: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The operator that hides pixels."""
    return np.diag(np.broadcast_to(mask, shape).ravel())


def reflect(k: int, n: int) -> int:
    """The place that a border which mirrors, without repeating the edge, gives to `k`."""
    return (n - 1) - abs((n - 1) - abs(k))


def wrap(k: int, n: int) -> int:
    """The place of `k` on a ring."""
    return k % n


def blur_matrix(
    kernel: np.ndarray, shape: tuple[int, int, int], border: Callable[[int, int], int] = reflect
) -> np.ndarray:
    """The operator that correlates every channel with a kernel."""
    h, w, c = shape
    matrix = np.zeros((h, w, c, h, w, c))
    for row, column, channel in np.ndindex(h, w, c):
        for (u, v), value in np.ndenumerate(kernel):
            source = border(row + u - kernel.shape[0] // 2, h), border(column + v - kernel.shape[1] // 2, w)
            matrix[row, column, channel, *source, channel] += value
    return matrix.reshape(h * w * c, h * w * c)


def natural_covariance(shape: tuple[int, int, int], variance: float = 0.25, correlation: float = 0.9) -> np.ndarray:
    """The covariance of images whose power falls with the square of the frequency, on a torus, as a sum of waves."""
    h, w, c = shape
    rows, columns = np.indices((h, w)).reshape(2, -1)
    covariance, total = np.zeros((h * w, h * w)), 0.0
    for p in range(h):
        for q in range(w):
            power = 1 / (1 + min(p, h - p) ** 2 + min(q, w - q) ** 2)
            angle = 2 * np.pi * (p * np.subtract.outer(rows, rows) / h + q * np.subtract.outer(columns, columns) / w)
            covariance, total = covariance + power * np.cos(angle), total + power
    return variance * np.kron(covariance / total, (1 - correlation) * np.eye(c) + correlation)
