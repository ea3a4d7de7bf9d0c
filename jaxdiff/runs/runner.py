"""Running a sampler for a script: a progress bar, snapshots, and a file from which a killed run goes on."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from jaxdiff.chains.devices import share_out
from jaxdiff.chains.many import Progress, sample_segments
from jaxdiff.chains.memory import fitting, plan
from jaxdiff.errors import UserError
from jaxdiff.images.files import to_uint8
from jaxdiff.images.fit import reduced
from jaxdiff.metrics.diagnosis import Diagnosis
from jaxdiff.runs.folder import read_npz, write_npz
from jaxdiff.runs.methods import Run
from jaxdiff.runs.platform import devices_for
from jaxdiff.samplers.base import Observer

SNAPSHOTS = 20
"""Segments of a run: how often it can be looked at, and how much of it a kill can cost at most."""

FRAME_PIXELS = 2**18
"""Snapshots of images with more pixels are averaged down."""

KEEP_EVERY = 1.0
"""Seconds between two writings of the file from which a killed run goes on, at least."""


@dataclass(frozen=True)
class Timing:
    """How long a run took.

    Attributes:
        compile_seconds: tracing, lowering and compiling.
        run_seconds: everything else.
    """

    compile_seconds: float
    run_seconds: float


@dataclass(frozen=True)
class Drawn:
    """What a run gave.

    Attributes:
        samples: one image per key.
        frames: snapshots of the first chain, `x_t` beside `x0_hat`, one per segment.
        timing: how long it took, all sittings together.
        resumed: whether an earlier sitting had finished some or all of it.
        curve: what was observed of every sample up to the end of each segment, `(segments, n)`; None without an
            observer, and where an older version kept none.
    """

    samples: Float[np.ndarray, "n h w c"]
    frames: UInt8[np.ndarray, "f h 2*w c"]
    timing: Timing
    resumed: bool
    curve: Diagnosis | None = None

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What was observed of every sample in the whole run, `(n,)`."""
        return self.curve and Diagnosis(*(leaf[-1] for leaf in self.curve))


@dataclass
class _Sitting:
    """What is known so far, and how it is kept."""

    store: Path
    batch_size: int
    finished: list[np.ndarray] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    seen: list[Diagnosis] = field(default_factory=list)
    earlier: Timing = Timing(0.0, 0.0)
    after: Progress | None = None
    compiling: float = 0.0
    started: float = field(default_factory=time.monotonic)
    kept: float = field(default_factory=time.monotonic)

    @property
    def partial(self) -> Path:
        return self.store.with_suffix(".partial.npz")

    @property
    def timing(self) -> Timing:
        running = max(time.monotonic() - self.started - self.compiling, 0.0)
        return Timing(self.earlier.compile_seconds + self.compiling, self.earlier.run_seconds + running)

    def read(self, run: Run, keys: Key[Array, " n"], observed: bool) -> None:
        """Finds where an earlier sitting with batches of the same size, observed alike, stood."""
        if not self.partial.exists():
            return
        kept = read_npz(self.partial)
        seen = _curve(kept)
        if int(kept["batch_size"]) != self.batch_size or (seen is not None) != observed:
            return
        start = jax.eval_shape(lambda key: run.sampler.init(key, int(run.times[0])), keys[0])
        structure = jax.tree.structure(start if run.state is None else run.state)
        leaves = [jnp.asarray(kept[f"state_{i}"]) for i in range(structure.num_leaves)]
        batch, num_batches, step, num_steps = kept["progress"].tolist()
        state = jax.tree.unflatten(structure, leaves)
        self.seen = [] if seen is None else [Diagnosis(*leaves) for leaves in zip(*seen, strict=True)]
        last = jax.tree.map(jnp.asarray, self.seen[-1]) if self.seen else None
        self.after = Progress(batch, num_batches, step, num_steps, state, None, last)
        self.finished, self.frames = [kept["samples"]], list(kept["frames"])
        self.earlier = Timing(*kept["seconds"].tolist())

    def add(self, progress: Progress, images: Float[np.ndarray, "n h w c"], num_samples: int) -> None:
        """Takes in what a segment gave: what was seen, the first chain, and the samples of a batch that is done."""
        self.compiling = progress.compile_seconds
        if progress.seen is not None:
            self.seen.append(jax.tree.map(np.asarray, progress.seen))
        if progress.batch == 0:
            pair = (reduced(x, FRAME_PIXELS) for x in (images[0], np.asarray(progress.x0_hat[0])))
            self.frames.append(to_uint8(np.concatenate(list(pair), axis=1)))
        if progress.step == progress.num_steps:
            self.finished.append(images[: num_samples - progress.batch * self.batch_size])

    def keep(self, progress: Progress) -> None:
        """Writes everything that a later sitting needs, unless that has just been done."""
        if time.monotonic() - self.kept < KEEP_EVERY:
            return
        self.kept = time.monotonic()
        empty = np.zeros((0, *np.shape(progress.x0_hat)[1:]), np.float32)
        state = {f"state_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(progress.state))}
        write_npz(
            self.partial,
            samples=np.concatenate([empty, *self.finished]),
            frames=np.array(self.frames, np.uint8),
            progress=np.array(progress[:4]),
            batch_size=np.array(self.batch_size),
            seconds=np.array(astuple(self.timing)),
            **state,
            **_named(self.stacked()),
        )

    def finish(self) -> Drawn:
        """Writes the samples, and removes what was kept on the way."""
        samples, resumed = np.concatenate(self.finished), self.after is not None
        curve = self.curve(len(samples))
        drawn = Drawn(samples, np.array(self.frames), self.timing, resumed, curve)
        seconds = np.array(astuple(drawn.timing))
        write_npz(self.store, samples=samples, frames=drawn.frames, seconds=seconds, **_named(curve))
        self.partial.unlink(missing_ok=True)
        return drawn

    def stacked(self) -> Diagnosis | None:
        """Returns what was seen, `(segments of all batches, chains of a batch)`."""
        return Diagnosis(*map(np.stack, zip(*self.seen, strict=True))) if self.seen else None

    def curve(self, num_samples: int) -> Diagnosis | None:
        """Returns what was seen with the batches side by side, without the copies that fill up the last."""
        seen, batches = self.stacked(), -(-num_samples // self.batch_size)
        if seen is None:
            return None
        return Diagnosis(*(np.concatenate(np.split(leaf, batches), axis=1)[:, :num_samples] for leaf in seen))


def _named(curve: Diagnosis | None) -> dict[str, Any]:
    return {} if curve is None else {f"seen_{name}": leaf for name, leaf in curve._asdict().items()}


def _curve(kept: dict[str, np.ndarray]) -> Diagnosis | None:
    names = [f"seen_{name}" for name in Diagnosis._fields]
    return Diagnosis(*(kept[name] for name in names)) if all(name in kept for name in names) else None


def sample_keys(seed: int, count: int) -> Key[Array, " n"]:
    """Returns the keys of samples 0, 1, ...; asking for more of them changes none."""
    root = jax.random.fold_in(jax.random.key(seed), 2)
    return jax.vmap(lambda k: jax.random.fold_in(root, k))(jnp.arange(count))


def draw(
    title: str,
    run: Run,
    keys: Key[Array, " n"],
    store: Path,
    console: Console,
    *,
    batch_size: int | Literal["auto"] | None = None,
    residual: Callable[[Float[Array, "n h w c"]], str] | None = None,
    observer: Observer | None = None,
) -> Drawn:
    """Draws one sample per key behind a progress bar, going on from where a killed run stood.

    Args:
        title: beside the bar.
        run: the sampler, its times, and where it starts.
        keys: one per sample.
        store: an `.npz` file for the samples; while it is being made, `*.partial.npz` beside it holds finished
            batches and the state of the running one.
        console: where to draw the bar.
        batch_size: samples drawn at once, as for `sample_segments`, shared by all devices of this process; all by
            default, `auto` for as many as fit. Going on with another size starts the chains anew.
        residual: says in a few words how far estimates `x0_hat` are from the data.
        observer: looks at every step of every chain.

    Raises:
        UserError: if a chain is not finite any more, or a file of an earlier run is damaged.
        MemoryError: if the batch does not fit, with the size that does.
    """
    if store.exists():
        kept = read_npz(store)
        return Drawn(kept["samples"], kept["frames"], Timing(*kept["seconds"].tolist()), True, _curve(kept))
    devices, num_steps = devices_for(image_shape(run.sampler, int(run.times[0]))), len(run.times) - 1
    segment = max(num_steps // SNAPSHOTS, 1)
    if batch_size == "auto":
        found = plan(run.sampler, run.times, segment=segment, observer=observer, devices=devices)
        # An earlier sitting's size where it fits: what is free differs from run to run, and another starts anew.
        batch_size = fitting(found, min(len(keys), _kept_batch_size(store) or len(keys)))
        devices = devices[: found.devices]
        console.print(f"  {found}; {len(keys)} wanted, drawn {batch_size} at once", highlight=False, soft_wrap=True)
    devices, batch_size = share_out(devices, batch_size or len(keys), len(keys))
    sitting = _Sitting(store, batch_size)
    sitting.read(run, keys, observer is not None)
    total, ends = num_steps * -(-len(keys) // sitting.batch_size), []
    with _progress_bar(title, total, console) as update:
        for progress in sample_segments(
            run.sampler,
            keys,
            run.times,
            batch_size=sitting.batch_size,
            segment=segment,
            state=run.state,
            observer=observer,
            after=sitting.after,
            devices=devices if len(devices) > 1 else None,
        ):
            images = np.asarray(jax.vmap(run.sampler.image)(progress.state))
            _check_finite(title, images, progress, run.times)
            sitting.add(progress, images, len(keys))
            ends.append(sitting.timing.run_seconds)
            if len(ends) == 2:  # the first segment also waits for the start of the chains
                _say_how_long(ends[1] - ends[0], progress.step / 2, total, console)
            update(progress.batch * num_steps + progress.step, residual(progress.x0_hat) if residual else "")
            sitting.keep(progress)
    return sitting.finish()


def _say_how_long(seconds: float, steps: float, total: int, console: Console) -> None:
    """Says how long a run will take, if that is worth a line, when so many of its steps have taken so long."""
    seconds *= total / steps
    if seconds > 10:
        words = f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"
        console.print(f"  about {words}", highlight=False)


def image_shape(sampler: Any, t: int) -> tuple[int, ...]:
    """Returns the shape of a sampler's images."""
    start = jax.eval_shape(sampler.init, jax.eval_shape(lambda: jax.random.key(0)), t)
    return jax.eval_shape(sampler.image, start).shape


def _kept_batch_size(store: Path) -> int | None:
    partial = store.with_suffix(".partial.npz")
    return int(read_npz(partial)["batch_size"]) if partial.exists() else None


def _check_finite(title: str, images: np.ndarray, progress: Progress, times: np.ndarray) -> None:
    if np.isfinite(images).all():
        return
    where, fix = f"by step {progress.step} of", "smaller hyper-parameters or more --steps make every step gentler"
    if progress.seen is not None:
        first = int(np.max(progress.seen.first_bad))
        step = times.tolist().index(first) + 1
        where = f"at time {first}, in step {step} of"
        fix = "look for NaN in the prior's weights and in the data" if step == 1 else fix
    raise UserError(f"{title}: the chain diverged (not a finite number) {where} {progress.num_steps}; {fix}.")


@contextmanager
def _progress_bar(title: str, total: int, console: Console) -> Iterator[Callable[[int, str], None]]:
    """Gives a function `(steps done, residual)` that moves a bar, or prints a line now and then in a log."""
    said_at = time.monotonic()
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, {task.fields[residual]}left"),
        TimeRemainingColumn(),
    )
    with ProgressBar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, residual="")

        def update(done: int, residual: str) -> None:
            nonlocal said_at
            bar.update(task, completed=done, residual=f"{residual}, " if residual else "")
            if not console.is_terminal and time.monotonic() - said_at > 30:
                said_at = time.monotonic()
                console.print(f"  {done}/{total} steps{', ' * bool(residual)}{residual}", highlight=False)

        yield update
