"""The benchmark's tables in Markdown, made from its JSON alone."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from experiments.benchmark.timing import CHAIN, CHANNELS_LAST, OURS, PEERS, PUBLISHED, SHARED, STEP

Found = Mapping[str, Any]

PEERS_NOTE = (
    "PyTorch's network is the original, without the recomputation in the backward pass that azula's copy adds and that "
    "azula's DPS runs with; its float32 follows PyTorch's defaults, which are TF32 convolutions on a GPU. "
    "All but the batched peers draw one image at a time."
)

ALWAYS = (PUBLISHED, CHANNELS_LAST)
"""Peers that have a column even where they are not installed."""

NOISY = 0.2
"""A spread that says more about the machine than about the program."""

TITLES = {"dps": "DPS", "ddpm": "DDPM (forward only)"}
IN_SAMPLE = "`sample`"
ON_ALL = "in `sample`, on all devices"


def speed_table(found: Found) -> str:
    """Returns all tables and what is to be said about them."""
    parts = list(_heading(found))
    for network in _values(found, "network"):
        for task in TITLES:
            records = list(_chosen(found, network=network, task=task))
            if records:
                work = records[0]["flop_per_image_step"] / 1e9
                parts.append(f"### {network}: {TITLES[task]}, {work:.3g} GFLOP per step and image")
                parts += [_ours(found, records), _side_by_side(found, records)]
    parts += _checks(found)
    if found["gpu"]:
        parts += _gpu_goals(found)
    if found["peers"]:
        parts.append(PEERS_NOTE)
    if max((_spread(record) for record in found["records"] if record["seconds"]), default=0) > NOISY:
        parts.append(f"Some times spread by more than ± {100 * NOISY:.0f} %: the machine was not quiet; time again.")
    parts += [f"Left out: {reason}" for reason in found["left_out"]]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(found: Found) -> Iterator[str]:
    versions = found["environment"]["versions"] | (found["peers"] or {})
    named = ", ".join(f"{name} {versions[name]}" for name in ("jaxdiff", "jax", "torch", "azula") if name in versions)
    yield f"{found['device']}; {named}; {found['started'][:10]}. `{found['command']}`."
    for dtype, sides in found["peaks"].items():
        if sides:
            each = ", ".join(f"{side} {_rate(peak)}" for side, peak in sides.items())
            yield f"Matrix product in {dtype}: {each}."
    for case, seconds in found["torch_threads"].items():
        each = ", ".join(f"{_milliseconds(one)} ms with {count}" for count, one in seconds.items())
        yield f"PyTorch's threads for {case}: the quicker number, by its forward pass ({each})."
    yield "Times are milliseconds per step and image: median ± half the range of the rounds."


def _ours(found: Found, records: Sequence[Found]) -> str:
    """A row per number of seeds and precision: what this library takes."""
    rows = []
    for seeds, dtype in _pairs(records):
        step, chain = (_one(records, side=OURS, program=name, seeds=seeds, dtype=dtype) for name in (STEP, CHAIN))
        known = chain or step
        if known:
            rows.append(
                [
                    str(seeds),
                    dtype,
                    _timed(step),
                    _timed(chain),
                    _share(found, known),
                    f"{known['compile_seconds']:.0f}",
                    f"{known['memory_bytes'] / 1e9:.2f}" if known["memory_bytes"] else "",
                ]
            )
    steps = records[0]["steps"]
    columns = ["seeds", "precision", "bare step", f"in {IN_SAMPLE}, {steps} steps", "share of peak"]
    return _markdown([*columns, "compile, s", "memory, GB"], rows)


def _side_by_side(found: Found, records: Sequence[Found]) -> str:
    """A row per number of seeds and precision of ours, a column per peer."""
    present = {*ALWAYS, *(record["side"] for record in records)}
    sides = [side for side in PEERS if side in present]
    sharing = any(record["program"] == SHARED for record in records)
    rows = []
    for seeds, dtype in _pairs(records):
        alone, shared = (
            _one(records, side=OURS, program=program, seeds=seeds, dtype=dtype) for program in (CHAIN, SHARED)
        )
        cells = [_against(shared or alone, _one(records, side=side, seeds=seeds)) for side in sides]
        rows.append([str(seeds), dtype, _timed(alone), *([_timed(shared)] if sharing else []), *cells])
    note = "In brackets: this library's time in `sample` divided by the peer's; below 1 it is the faster one."
    if sharing:
        note += " On all devices, where there is such a time, as scripts run it: on a CPU a device is a core."
    if not found["peers"]:
        note = "No peers were timed: their columns are empty."
    columns = ["seeds", "precision", f"in {IN_SAMPLE}", *([ON_ALL] if sharing else []), *sides]
    return _markdown(columns, rows) + "\n\n" + note


def _against(ours: Found | None, theirs: Found | None) -> str:
    if not theirs or not ours:
        return _timed(theirs)
    return f"{_timed(theirs)} ({ours['median'] / theirs['median']:.2f})"


CHECKS = (
    ("DPS in `sample` / bare step", {"task": "dps", "program": CHAIN}, {"task": "dps", "program": STEP}, 1.02),
    ("DDPM in `sample` / bare step", {"task": "ddpm", "program": CHAIN}, {"task": "ddpm", "program": STEP}, 1.02),
    ("vmap over seeds / own batch", {"program": "vmap"}, {"program": "own batch"}, 1.05),
    ("gradient in a scan / outside", {"program": "in a scan"}, {"program": "outside"}, 1.2),
)


def _checks(found: Found) -> Iterator[str]:
    """What this library's programs cost against each other, with what is aimed at."""
    rows = []
    for network in _values(found, "network"):
        ours = list(_chosen(found, network=network, side=OURS))
        for name, over, under, goal in CHECKS:
            for seeds, dtype in _pairs(ours):
                a, b = (_one(ours, seeds=seeds, dtype=dtype, **which) for which in (over, under))
                if a and b:
                    ratios = [x / y for x, y in zip(a["seconds"], b["seconds"], strict=False)]
                    ratio = f"{a['median'] / b['median']:.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
                    rows.append([network, name, str(seeds), dtype, ratio, f"{goal}"])
    if rows:
        yield "### One program against another"
        yield _markdown(["network", "ratio of medians", "seeds", "precision", "found (least to most)", "at most"], rows)


def _gpu_goals(found: Found) -> Iterator[str]:
    """The goals for one H200: 1000 steps of DPS with FFHQ-256."""
    best = _best(found, "dps")
    if not best:
        return
    yield "### 1000 steps of DPS with ffhq-256, from the time of a step"
    seconds = 1000 * best["seeds"] * best["median"]
    lines = [f"- {best['seeds']} seeds in {best['dtype']}: {seconds:.1f} s (16 seeds are to take 60 s at most)."]
    reference = next(_chosen(found, network="ffhq-256", task="dps", side=PUBLISHED, seeds=best["seeds"]), None)
    if reference:
        ratio = reference["median"] / best["median"]
        lines.append(f"- Images per second against PyTorch as published: {ratio:.1f} times (goal: at least 10).")
    forward = _best(found, "ddpm")
    if forward and forward["dtype"] == best["dtype"]:
        lines.append(
            f"- A step without a gradient takes {forward['median'] / best['median']:.2f} of one with (near 0.5)."
        )
    yield "\n".join(lines)


def _best(found: Found, task: str) -> Found | None:
    """The chain of 16 seeds in bfloat16, or else the quickest."""
    chains = [r for r in _chosen(found, network="ffhq-256", task=task, side=OURS, program=CHAIN) if r["seconds"]]
    wanted = [r for r in chains if (r["seeds"], r["dtype"]) == (16, "bfloat16")]
    return min(wanted or chains, key=lambda record: record["median"], default=None)


def _chosen(found: Found, **which: Any) -> Iterator[Found]:
    return (r for r in found["records"] if r["seconds"] and all(r[name] == value for name, value in which.items()))


def _one(records: Iterable[Found], **which: Any) -> Found | None:
    return next((r for r in records if all(r[name] == value for name, value in which.items())), None)


def _values(found: Found, name: str) -> list[Any]:
    return list(dict.fromkeys(record[name] for record in found["records"]))


def _pairs(records: Iterable[Found]) -> list[tuple[int, str]]:
    """Every number of seeds with every precision of ours, in order."""
    pairs = dict.fromkeys((r["seeds"], r["dtype"]) for r in records if r["side"] == OURS)
    return sorted(pairs, key=lambda pair: pair[0])


def _timed(record: Found | None) -> str:
    if not record or not record["seconds"]:
        return ""
    return f"{_milliseconds(record['median'])} ± {100 * _spread(record):.0f} %"


def _spread(record: Found) -> float:
    """Half the range of the rounds over their median."""
    return (max(record["seconds"]) - min(record["seconds"])) / 2 / record["median"]


def _share(found: Found, record: Found) -> str:
    peak = max(found["peaks"].get(record["dtype"], {}).values(), default=0)
    return f"{_rate(record['flop_per_second'])}, {100 * record['flop_per_second'] / peak:.0f} %" if peak else ""


def _milliseconds(seconds: float) -> str:
    number = 1000 * seconds
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _rate(flop_per_second: float) -> str:
    return (
        f"{flop_per_second / 1e12:.1f} TFLOP/s" if flop_per_second >= 1e12 else f"{flop_per_second / 1e9:.0f} GFLOP/s"
    )


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    align: Callable[[Sequence[str]], str] = lambda cells: "| " + " | ".join(cells) + " |"
    return "\n".join([align(columns), align(["---"] * len(columns)), *map(align, rows)])
