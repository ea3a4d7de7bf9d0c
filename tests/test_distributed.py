"""Two real processes that meet on this machine, and one that waits in vain."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdiff.runs.distributed import join
from jaxdiff.runs.errors import UserError
from tests.test_evaluate import (  # noqa: F401
    IMAGES,
    QUICK,
    assert_same,
    compile_quickly,
    no_lpips_weights,
    pictures,
    settings,
    whole,
)

ROOT = Path(__file__).parent.parent


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(*flags):
    command = [sys.executable, "-m", "experiments.evaluate", *map(str, flags)]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | QUICK, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_do_half_of_the_images_each(whole, tmp_path):  # noqa: F811
    out, coordinator = tmp_path / "out", f"127.0.0.1:{free_port()}"
    flags = [whole.folder, "--prior", whole.prior, "--steps", 3, "--seeds", 2, "--out", out]
    flags += ["--tasks", "random", "--methods", "dps", "--coordinator", coordinator, "--num-processes", 2]
    processes = [start(*flags, "--process-id", k) for k in range(2)]
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    for said, _ in ended:
        assert f"{IMAGES} images, {IMAGES // 2} of them in this process, 0 done before" in said
    # Process 0 has waited for the other.
    assert "4 of 4 images\n" in ended[0][0]
    assert [len(path.read_text().splitlines()) for path in sorted(out.glob("*.jsonl"))] == [2, 2]
    assert_same(out, whole)
    # Again: now process 0 has nothing to do, and waits all the same for the other.
    lines = (out / "results-1-of-2.jsonl").read_text().splitlines(keepends=True)
    (out / "results-1-of-2.jsonl").write_text(lines[0] + lines[1][:50])
    flags[flags.index(coordinator)] = f"127.0.0.1:{free_port()}"
    processes = [start(*flags, "--process-id", k) for k in range(2)]
    ended = [process.communicate(timeout=120) for process in processes]
    assert "2 of them in this process, 2 done before" in ended[0][0]
    assert "2 of them in this process, 1 done before" in ended[1][0]
    assert "4 of 4 images\n" in ended[0][0]
    assert_same(out, whole)


@pytest.mark.parametrize("process_id", [0, 1])
def test_a_process_that_meets_nobody_says_so(tmp_path, process_id):
    coordinator = f"127.0.0.1:{free_port()}"
    flags = ["--coordinator", coordinator, "--num-processes", 2, "--process-id", process_id, "--timeout", 1]
    process = start("--out", tmp_path / "out", *flags)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"error: not all processes met through the coordinator at {coordinator} within 1 s" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_without_a_cluster_nothing_is_joined():
    with pytest.raises(UserError, match="--coordinator HOST:PORT"):
        join(timeout=5)
