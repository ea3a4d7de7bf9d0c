"""The benchmark: what it counts, that its peers do the same work, and what it writes."""

import json
import os
import re
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from convert_weights.formats.unet import flax_shapes
from experiments.benchmark.__main__ import NO_PEERS, Benchmark, Config, cases, main
from experiments.benchmark.flops import forward_flop, network_work
from experiments.benchmark.programs import TINY, load_network, make_sampler
from experiments.benchmark.table import speed_table
from experiments.benchmark.timing import (
    CHAIN,
    CHANNELS_LAST,
    OURS,
    PUBLISHED,
    STEP,
    Case,
    Program,
    take_turns,
    warm_up,
)
from jaxdiff.errors import UserError
from jaxdiff.networks.unet import FFHQ_256
from tests.golden.make_unet_parity import SMALL


def test_the_large_network_costs_what_its_layers_do():
    assert 386e9 < forward_flop(FFHQ_256) < 390e9
    # Three of its layers by hand: 3x3 at 256x256, the widest concatenation at 8x8, and attention over 16x16 pixels.
    by_hand = {
        "input_blocks.1.0.in_conv.kernel": (256, 9 * 128 * 128 * 256**2),
        "output_blocks.0.0.in_conv.kernel": (8, 9 * 1024 * 512 * 8**2),
        "output_blocks.2.1.attention": (16, 2 * (16 * 16) ** 2 * 512),
    }
    found = {layer.name: (layer.side, layer.multiply_adds) for layer in network_work(FFHQ_256)}
    assert {name: found[name] for name in by_hand} == by_hand


def test_a_network_on_blocks_of_pixels_costs_what_one_on_as_many_pixels_does():
    on_blocks = replace(TINY, image_size=2 * TINY.image_size, patch=2)
    on_pixels = replace(TINY, in_channels=4 * TINY.in_channels, out_channels=4 * TINY.out_channels)
    assert list(network_work(on_blocks)) == list(network_work(on_pixels))


@pytest.mark.parity
@pytest.mark.parametrize("config", [*SMALL.values(), TINY], ids=[*SMALL, "tiny"])
def test_operations_are_those_that_pytorch_counts(config):
    torch = pytest.importorskip("torch")
    pytest.importorskip("azula")
    from torch.utils.flop_counter import FlopCounterMode  # pyright: ignore[reportMissingImports]

    from experiments.benchmark.torch_networks import make_torch_unet

    network, labels = make_torch_unet(config), None if config.num_classes is None else torch.tensor([1])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, config.image_size, config.image_size), torch.tensor([3]), labels)
    assert counter.get_total_flops() == forward_flop(config)


@pytest.mark.parity
@pytest.mark.parametrize(("name", "task"), [("tiny", "dps"), ("tiny", "ddpm"), ("faces-32", "dps")])
def test_a_step_of_the_peers_is_a_step_of_ours(name, task):
    """Both targets, learned and fixed variance, with and without a measurement; two images at once."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("azula")
    from experiments.benchmark.peers import Kind, make_peers
    from experiments.benchmark.torch_networks import numbers

    prior = load_network(name, "float32")
    sampler, keys = make_sampler(task, prior, 10), jax.random.split(jax.random.key(3), 2)

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(sampler, keys, x_t):
        return jax.vmap(lambda key, x_t: sampler.step(key, x_t, 500, 400)[0])(keys, x_t)

    noise, x_t = (jax.vmap(lambda key: jax.random.normal(key, prior.image_shape))(k) for k in (keys, keys[::-1]))
    to_torch = lambda images: torch.from_numpy(np.array(images).transpose(0, 3, 1, 2).copy())
    for kind in (Kind(), Kind(channels_last=True)):
        loop = make_peers(prior).loop(kind, task, 10)
        theirs = loop.step(to_torch(x_t), numbers(prior, 500, 400), to_torch(noise))
        np.testing.assert_allclose(theirs.permute(0, 2, 3, 1), step(sampler, keys, x_t), atol=2e-4)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run with the tiny network, with peers where they are installed."""
    out = tmp_path_factory.mktemp("benchmark")
    config = Config(networks=("tiny",), tasks=("dps",), seeds=(2,), repeats=2, out=out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.benchmark.timing.LEAST", 0.01)
        main(config)
    (path,) = out.glob("[!.]*.json")
    return config, path, json.loads(path.read_text())


def test_a_run_writes_all_times_and_what_they_mean(written, capsys):
    config, path, found = written
    records = {(r["side"], r["program"]): r for r in found["records"]}
    assert {(OURS, STEP), (OURS, CHAIN)} <= records.keys()
    if found["peers"]:
        assert not found["left_out"]
        assert {(PUBLISHED, STEP), (CHANNELS_LAST, STEP)} < records.keys()
        assert set(found["torch_threads"]["tiny, dps, 2 seeds"]) == {"1", str(os.cpu_count())}
    for record in records.values():
        assert len(record["seconds"]) == config.repeats
        assert min(record["seconds"]) <= record["median"] <= max(record["seconds"])
        assert record["flop_per_image_step"] == 2 * forward_flop(TINY)
        assert record["flop_per_second"] == pytest.approx(record["flop_per_image_step"] / record["median"])
    weights = 4 * sum(np.prod(shape) for shape in flax_shapes(TINY).values())
    # The weights are an argument, and what one step of two 8x8 images needs beside them is less than ten times as much.
    assert weights < records[OURS, STEP]["memory_bytes"] < 10 * weights
    assert records[OURS, CHAIN]["image_steps"] == 2 * records[OURS, CHAIN]["steps"]
    assert {"versions", "device", "cores"} <= found["environment"].keys()
    assert found["peaks"]["float32"]["jax"] > 1e8
    main(Config(table=(path,)))
    assert path.with_suffix(".md").read_text() in capsys.readouterr().out
    with pytest.raises(UserError, match="--overwrite"):
        main(config)


def test_without_peers_their_columns_are_empty(written):
    _, _, found = written
    alone = found | {"peers": None, "left_out": [NO_PEERS]}
    alone["records"] = [record for record in found["records"] if record["side"] == OURS]
    text = speed_table(alone)
    assert f"| in `sample` | {PUBLISHED} | {CHANNELS_LAST} |" in text
    assert re.search(r"^\| 2 \| float32 \| [\d.]+ ± \d+ % \|  \|  \|$", text, re.MULTILINE)
    assert "their columns are empty" in text
    assert f"Left out: {NO_PEERS}" in text


def fake_record(side: str, program: str, dtype: str, seconds: list[float], **changes: Any) -> dict[str, Any]:
    record = {
        **asdict(Case("ffhq-256", "dps", 16, 50)),
        "side": side,
        "program": program,
        "dtype": dtype,
        "compile_seconds": 60.0,
        "memory_bytes": 3e10,
        "seconds": seconds,
        "median": float(np.median(seconds)),
        "flop_per_image_step": 776e9,
        "flop_per_second": 776e9 / float(np.median(seconds)),
    }
    return record | changes


def test_the_goals_of_a_gpu_follow_from_its_times():
    records = [
        fake_record(OURS, STEP, "bfloat16", [2e-3, 2e-3]),
        fake_record(OURS, CHAIN, "bfloat16", [2.1e-3, 2.4e-3, 2e-3]),
        fake_record(OURS, CHAIN, "float32", [2e-2]),
        fake_record(OURS, CHAIN, "bfloat16", [1.05e-3], task="ddpm"),
        fake_record(PUBLISHED, STEP, "float32", [6.3e-2]),
    ]
    found = {
        "device": "NVIDIA H200",
        "gpu": True,
        "started": "2026-01-01T00:00:00",
        "command": "python -m experiments.benchmark",
        "environment": {"versions": {"jaxdiff": "0", "jax": "0"}},
        "peers": {"torch": "0"},
        "torch_threads": {},
        "peaks": {"bfloat16": {"jax": 8e14, "torch": 7e14}},
        "records": records,
        "left_out": [],
    }
    text = speed_table(found)
    assert "16 seeds in bfloat16: 33.6 s" in text
    assert "PyTorch as published: 30.0 times" in text
    assert "0.50 of one with" in text
    assert "| 369.5 TFLOP/s, 46 % |" in text
    assert text.index("| 16 | bfloat16 | 2.00") < text.index("| 16 | float32 |")
    assert "not quiet" not in text
    restless = fake_record(PUBLISHED, STEP, "float32", [1.0, 2.0])
    assert "not quiet" in speed_table(found | {"records": [*records, restless]})
    assert "| DPS in `sample` / bare step | 16 | bfloat16 | 1.050 (1.050 to 1.200) | 1.02 |" in text


def make_fake(name: str, log: list[str], fail_at: int = 99) -> Program:
    def start():
        log.append(name)
        if log.count(name) == fail_at:
            raise KeyboardInterrupt
        return jnp.zeros(1)

    return Program(OURS, name, "float32", 1, start, jax.block_until_ready, 0.0, lambda: None, "nobody")


def test_programs_take_turns_and_what_a_killed_run_has_timed_is_kept():
    log, kept = [], []
    ready: list[Any] = [(make_fake("a", log), {"starts": 1, "seconds": []})]
    ready.append((make_fake("b", log, fail_at=3), {"starts": 1, "seconds": []}))
    turns = partial(take_turns, ready, 5, flop=1, is_late=lambda: False)
    with pytest.raises(KeyboardInterrupt):
        turns(keep=lambda: kept.append([len(record["seconds"]) for _, record in ready]))
    assert log == ["a", "b"] * 3
    assert kept == [[1, 1], [2, 2]]


def test_what_is_not_finite_or_comes_too_late_is_left_out_with_its_reason(tmp_path):
    bench = Benchmark(Config(alone=True, out=tmp_path, minutes=60), Console(quiet=True))
    program = Program(OURS, "odd", "float32", 1, lambda: jnp.full(1, jnp.nan), lambda _: None, 0.0, lambda: None, "")
    assert bench.attempt("odd", lambda: warm_up(program)) is None
    bench.deadline = 0.0
    assert bench.attempt("late", lambda: 1) is None
    assert bench.found["left_out"] == ["odd: FloatingPointError: the numbers are not finite", "late: no time left"]


def test_cases_are_those_that_differ():
    config = Config(networks=("faces-32",))
    found = [(case.task, case.seeds) for case in cases(config, "faces-32")]
    assert [seeds for task, seeds in found if task == "dps"] == [1, 4, 16]
    assert [seeds for task, seeds in found if task == "batch"] == [4, 16]
    assert [seeds for task, seeds in found if task == "gradient"] == [1]
    assert {case.seeds for case in cases(config, "ffhq-256")} == {1}


def test_a_table_is_made_of_this_scripts_files_only(tmp_path):
    for text in ("{", "{}", "[]"):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(UserError, match="no result of this script"):
            main(Config(table=(tmp_path / "other.json",)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"networks": ("ffhq256",)}, "ffhq-256"),
        ({"tasks": ("dsp",)}, "dps"),
        ({"dtypes": ("bf16",)}, "bfloat16"),
        ({"seeds": (0,)}, "--seeds"),
        ({"repeats": 0}, "--repeats"),
        ({"minutes": 0.0}, "--minutes"),
    ],
)
def test_a_bad_flag_is_named(flags, message, tmp_path):
    with pytest.raises(UserError, match=message):
        main(Config(**{"out": tmp_path, **flags}))
    assert not list(tmp_path.iterdir())
