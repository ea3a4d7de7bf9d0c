"""Times this library and its PyTorch peers side by side, in one process and turn by turn.

    python -m experiments.benchmark
    python -m experiments.benchmark --networks faces-32 --seeds 1 4 --repeats 3
    python -m experiments.benchmark --table experiments/benchmark/results/cpu-NAME.json

Networks are FFHQ-256's with random weights and the shipped prior. Timed are one step of DPS and of DDPM, whole chains
in one program, on one device and shared by all (on a CPU: the cores), `jax.vmap` over seeds against the network's own
batch axis, and a gradient inside a scan against the same outside. All programs of a case run in turn (A B A B), so that
a machine that slows down does so for all.
PyTorch's side needs the extra `bench`; without it those columns are empty.

Writes a JSON file named after the device, again after every round, and a table beside it.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_args

import jax
from rich.console import Console

from experiments.benchmark.flops import forward_flop
from experiments.benchmark.programs import ARCHITECTURES, load_network, matmul_peak, programs
from experiments.benchmark.table import speed_table
from experiments.benchmark.timing import Case, Program, Record, take_turns, warm_up
from experiments.shared.command import run_script
from jaxdiff import Denoiser
from jaxdiff.disk import claim_folder, write_atomically
from jaxdiff.errors import UserError, check_names, check_positive
from jaxdiff.networks.precision import Dtype
from jaxdiff.networks.unet import UNetConfig
from jaxdiff.runs.folder import command_line, environment, write_json

PROGRAM = "python -m experiments.benchmark"
NETWORKS = (*ARCHITECTURES, "faces-32")
CASES = ("dps", "ddpm", "batch", "gradient")
STEPS = {"ffhq-256": 4, "faces-32": 50, "tiny": 3}
GPU_STEPS = 50
NO_PEERS = "the peers: PyTorch and azula (the extra `bench`) are not installed, or PyTorch lacks this device."
Made = TypeVar("Made")


@dataclass(frozen=True)
class Config:
    """What is timed."""

    networks: tuple[str, ...] = ("ffhq-256", "faces-32")
    """ffhq-256 (random weights), faces-32 (shipped), tiny (to try the script out)."""
    tasks: tuple[str, ...] = CASES
    """dps, ddpm, batch (vmap against the network's own batch axis), gradient (inside a scan against outside)."""
    seeds: tuple[int, ...] = ()
    """Images at once, in this order; by default 1 for ffhq-256 on a CPU, 1 4 16 else, and 64 too on a GPU."""
    dtypes: tuple[str, ...] = ()
    """Precisions; by default float32 on a CPU and bfloat16 tf32 float32 on a GPU."""
    steps: int | None = None
    """Steps of a chain; by default 4 for ffhq-256 and 50 for faces-32, on a GPU 50."""
    repeats: int = 5
    """Rounds in which every program has its turn."""
    minutes: float | None = None
    """Begin nothing new after so many minutes."""
    alone: bool = False
    """Leave PyTorch out."""
    out: Path = Path("results/benchmark")
    """Folder of the results."""
    overwrite: bool = False
    """Replace the results of an earlier run on such a device."""
    table: tuple[Path, ...] = ()
    """Time nothing, and print the tables of these files."""


def check(config: Config) -> None:
    """Ends the script when a flag is not usable."""
    check_names(config.networks, NETWORKS, "network")
    check_names(config.tasks, CASES, "task")
    if config.dtypes:
        check_names(config.dtypes, get_args(Dtype), "dtype")
    check_positive(steps=config.steps, repeats=config.repeats, seeds=min(config.seeds, default=None))
    if config.minutes is not None and config.minutes <= 0:
        raise UserError(f"--minutes must be positive, got {config.minutes}.")


def on_gpu() -> bool:
    """Whether JAX runs on something else than a CPU."""
    return jax.default_backend() != "cpu"


def cases(config: Config, network: str) -> Iterator[Case]:
    """Yields what is timed, the largest concerns first where the seeds come in their order."""
    usual = (16, 1, 4, 64) if on_gpu() else (1,) if network == "ffhq-256" else (1, 4, 16)
    steps = config.steps or (GPU_STEPS if on_gpu() else STEPS[network])
    for index, seeds in enumerate(dict.fromkeys(config.seeds or usual)):
        for task in dict.fromkeys(config.tasks):
            # One number of seeds tells what a scan does to a gradient, and one image is its own batch.
            if not (task == "gradient" and index) and not (task == "batch" and seeds == 1):
                yield Case(network, task, seeds, steps)


def case_title(case: Case) -> str:
    """Returns a case in words."""
    return f"{case.network}, {case.task}, {case.seeds} seed{'s' * (case.seeds > 1)}"


def network_config(prior: Denoiser) -> UNetConfig:
    """Returns the architecture."""
    network: Any = prior.network
    return network.config


def device_name() -> tuple[str, str]:
    """Returns the processor's or the card's name, and a file name made of it."""
    name = jax.devices()[0].device_kind if on_gpu() else f"{_processor()}, {os.cpu_count()} cores"
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return name, "-".join(["gpu" if on_gpu() else "cpu", *words])


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def import_peers() -> ModuleType | None:
    """Returns PyTorch's side where it is installed and runs on the same kind of device."""
    try:
        from experiments.benchmark import peers
    except ImportError:
        return None
    return peers if on_gpu() == (peers.DEVICE == "cuda") else None


class Benchmark:
    """A run of the benchmark.

    Attributes:
        found: everything that is written, as JSON has it.
        path: where to.
    """

    def __init__(self, config: Config, console: Console):
        self.config, self.console = config, console
        self.peers = None if config.alone else import_peers()
        self.deadline = None if config.minutes is None else time.monotonic() + 60 * config.minutes
        name, stem = device_name()
        self.path = config.out / f"{stem}.json"
        if self.path.exists() and not config.overwrite:
            raise UserError(f"{self.path} exists; --overwrite replaces it, and --out names another folder.")
        self.found: dict[str, Any] = {
            "device": name,
            "gpu": on_gpu(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command_line(PROGRAM, config),
            "environment": environment() | {"cores": os.cpu_count(), "system": platform.platform()},
            "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
            "peers": self.peers.versions() if self.peers else None,
            "torch_threads": {},
            "peaks": {},
            "records": [],
            "left_out": [] if self.peers or config.alone else [NO_PEERS],
        }
        self.dtypes: tuple[Any, ...] = tuple(
            config.dtypes or (("bfloat16", "tf32", "float32") if on_gpu() else ("float32",))
        )

    def keep(self) -> None:
        """Writes what was found so far."""
        write_json(self.path, self.found)
        write_atomically(self.path.with_suffix(".md"), speed_table(self.found))

    def is_late(self) -> bool:
        """Whether the time is up."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def attempt(self, what: str, make: Callable[[], Made]) -> Made | None:
        """Returns what is made; or writes down why it is not."""
        if self.is_late():
            self.found["left_out"].append(f"{what}: no time left")
            return None
        try:
            return make()
        except Exception as error:  # no memory, no compiler, ...: the rest is worth timing all the same
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            self.found["left_out"].append(f"{what}: {type(error).__name__}: {reason}")
            self.console.print(f"  left out: {self.found['left_out'][-1]}", highlight=False, markup=False)
            return None

    def measure_peaks(self, networks: tuple[str, ...]) -> None:
        """Times the matrix products of both sides."""
        sizes = (128,) if networks == ("tiny",) else (4096, 8192, 16384) if on_gpu() else (2048,)
        for dtype in self.dtypes:
            sides = {"jax": matmul_peak} | ({"torch": self.peers.torch_matmul_peak} if self.peers else {})
            peaks = {
                side: self.attempt(f"{side}'s peak in {dtype}", lambda peak=peak, dtype=dtype: peak(dtype, sizes))
                for side, peak in sides.items()
            }
            self.found["peaks"][dtype] = {side: peak for side, peak in peaks.items() if peak}
        self.keep()

    def run_network(self, network: str) -> None:
        """Runs all cases of one network."""
        priors = {dtype: load_network(network, dtype) for dtype in self.dtypes}
        handed = None
        if self.peers:
            handed = self.peers.make_peers(priors[self.dtypes[0]])
        for case in cases(self.config, network):
            self.console.print(case_title(case), highlight=False)
            members = [
                program
                for dtype in self.dtypes
                for program in self.attempt(
                    f"{case_title(case)}, {dtype}",
                    lambda dtype=dtype, case=case: programs(case, priors[dtype], dtype),
                )
                or []
            ]
            self.time(case, members + self.set_up_peers(case, handed), network_config(priors[self.dtypes[0]]))

    def set_up_peers(self, case: Case, handed: Any) -> list[Program]:
        """Returns PyTorch's programs of a case."""
        if not self.peers or case.task not in ("dps", "ddpm"):
            return []
        if not on_gpu():
            self.found["torch_threads"][case_title(case)] = self.peers.choose_threads(handed)
        made = [
            self.attempt(
                f"{case_title(case)}, {name}",
                lambda name=name: self.peers and self.peers.program(name, case, handed),
            )
            for name in self.peers.kinds_for(case)
        ]
        return [program for program in made if program]

    def time(self, case: Case, members: list[Program], config: UNetConfig) -> None:
        """Warms all programs up, and gives each its turn in every round."""
        ready: list[tuple[Program, Record]] = []
        flop = forward_flop(config) * (2 if case.task in ("dps", "gradient") else 1)
        for program in members:
            if self.peers:
                self.peers.forget_memory()
            what = f"{case_title(case)}, {program.side}, {program.name}, {program.dtype}"
            record = self.attempt(what, lambda program=program: warm_up(program))
            if record:
                ready.append((program, asdict(case) | record | {"flop_per_image_step": flop}))
        self.found["records"] += [record for _, record in ready]
        take_turns(ready, self.config.repeats, flop=flop, is_late=self.is_late, keep=self.keep)


def read_run(path: Path) -> dict[str, Any]:
    """Reads an earlier run's file."""
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or "records" not in found:
        raise UserError(f"{path} is no result of this script; --table takes the JSON files in --out.")
    return found


def main(config: Config) -> None:
    """Times everything, or prints an earlier table."""
    console = Console()
    if config.table:
        print("\n".join(speed_table(read_run(path)) for path in config.table))
        return
    check(config)
    # Both frameworks share the memory of a GPU; JAX alone would take three quarters of it. Read when JAX starts.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75" if config.alone else "0.6")
    was_cached = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        claim_folder(config.out, PROGRAM)
        benchmark = Benchmark(config, console)
        benchmark.measure_peaks(config.networks)
        for network in dict.fromkeys(config.networks):
            benchmark.run_network(network)
        benchmark.keep()
    finally:
        jax.config.update("jax_enable_compilation_cache", was_cached)
    print(speed_table(benchmark.found))
    console.print(
        f"written to {benchmark.path} and {benchmark.path.with_suffix('.md').name}", highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    run_script(main, Config, __doc__, "what was timed so far is kept")
