"""The benchmark's peers: the original PyTorch UNet in the loop of the DPS authors, and azula's DPS.

Imported only where PyTorch and azula (which carries the original network) are installed.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from azula.guidance.dps import DPSSampler  # pyright: ignore[reportMissingImports]
from azula.plugins.adm import AblatedDenoiser  # pyright: ignore[reportMissingImports]

from convert_weights.formats.guided_diffusion.names import to_torch
from experiments.benchmark.programs import make_sampler, weights_of
from experiments.benchmark.timing import (
    AZULA,
    BATCHED,
    BATCHED_CHANNELS_LAST,
    CHANNELS_LAST,
    COMPILED,
    LEAST,
    PUBLISHED,
    STEP,
    Case,
    Program,
    fastest,
    seconds_of,
    starts_in,
)
from experiments.benchmark.torch_networks import Loop, make_network, numbers
from jaxdiff import Denoiser, time_grid
from jaxdiff.networks.unet import UNetConfig

DEVICE = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


class Kind(NamedTuple):
    """How the original network is run.

    Attributes:
        batched: all seeds at once; else one image, as the authors' script runs.
        channels_last: the memory layout that is often faster.
        tuned: by `torch.compile`, in bfloat16, with cuDNN's own search.
    """

    batched: bool = False
    channels_last: bool = False
    tuned: bool = False


KINDS = {
    PUBLISHED: Kind(),
    CHANNELS_LAST: Kind(channels_last=True),
    BATCHED: Kind(batched=True),
    BATCHED_CHANNELS_LAST: Kind(batched=True, channels_last=True),
    COMPILED: Kind(batched=True, channels_last=True, tuned=True),
}


@dataclass(frozen=True)
class Peers:
    """What all peers of one network share.

    Attributes:
        denoiser: this library's.
        state: its weights as the original has them, on the device.
    """

    denoiser: Denoiser
    state: dict[str, Any]

    @property
    def config(self) -> UNetConfig:
        """The architecture."""
        network: Any = self.denoiser.network
        return network.config

    def loop(self, kind: Kind, task: str, steps: int) -> Loop:
        """Sets the authors' loop up."""
        network = make_network(self.config, self.state)
        if kind.channels_last:
            network = network.to(memory_format=torch.channels_last)
        guided = make_sampler("dps", self.denoiser, steps)
        mask = guided.measurement.operator(jnp.ones(self.denoiser.image_shape))
        return Loop(
            network=torch.compile(network) if kind.tuned else network,
            mask=to_device(mask),
            y=to_device(guided.measurement.y),
            zeta=float(guided.zeta) if task == "dps" else None,
            target=self.denoiser.target,
            variance=self.denoiser.variance,
            bfloat16=kind.tuned,
        )


def make_peers(denoiser: Denoiser) -> Peers:
    """Hands a network's weights to PyTorch."""
    state = to_torch(weights_of(denoiser))
    return Peers(denoiser, {name: torch.tensor(array, device=DEVICE) for name, array in state.items()})


def to_device(image: Any) -> Any:
    """Turns an image `(h, w, c)` into a batch of one."""
    return torch.from_numpy(np.array(image, np.float32).transpose(2, 0, 1)[None].copy()).to(DEVICE)


def kinds_for(case: Case) -> list[str]:
    """Returns the peers that have something to say about a case."""
    names = [PUBLISHED, CHANNELS_LAST]
    if case.seeds > 1:
        names += [BATCHED, BATCHED_CHANNELS_LAST]
    if DEVICE == "cuda":
        names.append(COMPILED)
    if case.task == "dps":
        names.append(AZULA)
    return names


def program(name: str, case: Case, peers: Peers) -> Program:
    """Sets one peer up; the first start warms it up or compiles it."""
    if name == AZULA:
        return _azula_program(peers)
    kind = KINDS[name]
    loop, count = peers.loop(kind, case.task, case.steps), case.seeds if kind.batched else 1
    layout = torch.channels_last if kind.channels_last else torch.contiguous_format
    h, w, c = peers.denoiser.image_shape
    x_t = torch.randn((count, c, h, w), device=DEVICE).contiguous(memory_format=layout)
    last = peers.denoiser.schedule.num_times - 1
    at = numbers(peers.denoiser, *(int(t) for t in time_grid(last + 1, max(case.steps, 2))[:2]))

    def start() -> Any:
        torch.backends.cudnn.benchmark = kind.tuned
        return loop.step(x_t, at, torch.randn_like(x_t))

    return _program(name, "bfloat16" if kind.tuned else "float32", count, start)


def _azula_program(peers: Peers) -> Program:
    network = make_network(peers.config, peers.state, recompute=True)
    learned = peers.denoiser.variance == "learned_range"
    denoiser = AblatedDenoiser(network, clip_mean=True, learn_var=learned).to(DEVICE).eval()
    guided = make_sampler("dps", peers.denoiser, 1000)
    mask, y = (
        to_device(guided.measurement.operator(jnp.ones(peers.denoiser.image_shape))),
        to_device(guided.measurement.y),
    )
    sampler = DPSSampler(denoiser, y, lambda x: mask * x, zeta=float(guided.zeta), silent=True)
    x_t, t, s = torch.randn_like(y), torch.tensor(0.9, device=DEVICE), torch.tensor(0.899, device=DEVICE)
    return _program(AZULA, "float32", 1, lambda: sampler.step(x_t, t, s))


def _program(name: str, dtype: str, count: int, start: Callable[[], Any]) -> Program:
    return Program(
        side=name,
        name=STEP,
        dtype=dtype,
        image_steps=count,
        start=start,
        wait=_wait,
        compile_seconds=None,
        memory_bytes=lambda: torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None,
        memory_source="PyTorch's allocator" if DEVICE == "cuda" else "PyTorch counts none on a CPU",
    )


def _wait(images: Any) -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def forget_memory() -> None:
    """Gives cached memory back, and begins to count anew."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def choose_threads(peers: Peers) -> dict[int, float]:
    """Sets the number of threads, one or all, with which a forward pass is quicker; returns the seconds of each.

    They take turns, and medians decide: a machine that is busy for a moment must not decide for PyTorch.
    """
    at, loop = numbers(peers.denoiser, 900, 899), peers.loop(Kind(), "ddpm", 1000)
    step = lambda: loop.step(loop.y, at, loop.y)
    count = starts_in(LEAST, seconds_of(step, _wait, 1))
    times = {threads: [] for threads in _thread_counts()}
    for _ in range(3):
        for threads, seconds in times.items():
            torch.set_num_threads(threads)
            seconds.append(seconds_of(step, _wait, count))
    found = {threads: median(seconds) for threads, seconds in times.items()}
    torch.set_num_threads(min(found, key=found.__getitem__))
    return found


def _thread_counts() -> list[int]:
    """One and all: beside other work, threads that wait for each other can be slower than one."""
    return sorted({1, os.cpu_count() or 1}) if DEVICE == "cpu" else [torch.get_num_threads()]


def torch_matmul_peak(dtype: str, sizes: tuple[int, ...]) -> float:
    """Returns the most floating-point operations per second of a matrix product."""
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    best, usual = 0.0, torch.get_num_threads()
    for size in sizes:
        a, b = (torch.randn(size, size, device=DEVICE).to(_NUMBERS[dtype]) for _ in range(2))
        for count in _thread_counts():
            torch.set_num_threads(count)
            best = max(best, 2 * size**3 / fastest(lambda a=a, b=b: a @ b, _wait))
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_num_threads(usual)
    return best


_NUMBERS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}


def versions() -> dict[str, str]:
    """Returns what the peers are."""
    return {"torch": torch.__version__, "azula": version("azula")}
