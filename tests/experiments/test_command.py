"""Every script from the command line: its help, and its answer to a bad flag."""

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from experiments.shared import command
from experiments.shared.problems import ALL_PROBLEMS, PROBLEMS
from jaxdiff.errors import UserError
from jaxdiff.runs.methods import METHODS

ROOT = Path(__file__).parents[2]


def find_scripts() -> list[str]:
    """Everything that `python -m experiments.NAME` starts."""
    found = []
    for module in pkgutil.iter_modules(experiments.__path__):
        names = {inner.name for inner in pkgutil.iter_modules([str(ROOT / "experiments" / module.name)])}
        if not module.ispkg or "__main__" in names:
            found.append(module.name)
    return found


@pytest.fixture
def help_of(monkeypatch, capsys):
    """Returns a function that runs a script with `--help`, and returns what it prints."""

    def run(name: str) -> str:
        folder = ROOT / "experiments" / name
        module = importlib.import_module(f"experiments.{name}" + ".__main__" * folder.is_dir())
        # What the script's last line does, with the arguments that stand there.
        last = inspect.getsource(module).split('if __name__ == "__main__":\n')[1].strip()
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            exec(last, vars(module))
        assert ended.value.code == 0
        return " ".join(capsys.readouterr().out.replace("│", " ").split())

    return run


def test_scripts_are_found():
    assert {"compare", "evaluate", "precision", "benchmark", "demo"} <= set(find_scripts())
    assert "shared" not in find_scripts()


@pytest.mark.parametrize("name", find_scripts())
def test_every_script_has_a_help(help_of, name):
    said = help_of(name)
    assert f"python -m experiments.{name}" in said
    assert "--" in said


@pytest.mark.parametrize("name", ["compare", "evaluate", "out_of_distribution", "precision"])
def test_every_method_and_problem_is_offered(help_of, name):
    said = help_of(name)
    assert f"Some of: {', '.join(METHODS)}." in said
    assert f"Some of: {', '.join(ALL_PROBLEMS if name == 'compare' else PROBLEMS)}." in said


def test_a_script_runs_with_its_flags_and_ends_with_code_two(monkeypatch, capsys):
    """And leaves devices and cache as they are, which only the first use of JAX could change."""
    from experiments.compare.__main__ import Compare

    monkeypatch.setattr(command, "prepare", lambda **chosen: None)
    monkeypatch.setattr(sys, "argv", ["compare", "--tasks", "box", "--steps", "7"])
    seen = []
    command.run_script(seen.append, Compare, "A script.")
    assert (seen[0].tasks, seen[0].steps) == (("box",), 7)

    def refuse(config):
        raise UserError("no.")

    with pytest.raises(SystemExit) as ended:
        command.run_script(refuse, Compare, "A script.")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: no.\n"


@pytest.mark.parametrize("name", ["compare", "evaluate", "generate", "train", "train_faces", "verdicts"])
def test_a_seed_that_would_be_another_is_refused_by_every_script(name, monkeypatch, capsys):
    folder = ROOT / "experiments" / name
    module = importlib.import_module(f"experiments.{name}" + ".__main__" * folder.is_dir())
    monkeypatch.setattr(sys, "argv", [name, "--seed", str(2**32), *["--photos", "."] * (name == "train")])
    with pytest.raises(SystemExit) as ended:
        exec(inspect.getsource(module).split('if __name__ == "__main__":\n')[1].strip(), vars(module))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --seed must be between 0 and 4294967295, got 4294967296.\n"


def test_a_bad_flag_ends_a_process_without_traceback_or_folder(tmp_path):
    line = [sys.executable, "-m", "experiments.compare", "--sigma", "-1", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert ended.returncode == 2
    assert ended.stderr.strip() == "error: --sigma must be zero or positive, got -1.0."
    assert not (tmp_path / "out").exists()
