"""Compiled programs are kept between starts."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxdiff.runs.platform import keep_compiled_programs

ROOT = Path(__file__).parents[2]
START = """
import sys
import jax
import jax.numpy as jnp
from jaxdiff.runs.platform import keep_compiled_programs

hits = []
jax.monitoring.register_event_listener(lambda event, **kwargs: hits.append(event.endswith("/cache_hits")))
folder = keep_compiled_programs()
value = jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3)))
print(folder, sum(hits), float(value[0, 0]))
"""


def chosen_folder():
    return getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009


@pytest.fixture
def no_cache():
    """Puts JAX's settings back."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def start(cache: Path, **environment: str) -> list[str]:
    """Starts a process that compiles a little; returns the folder, the number of programs found in it, and a value."""
    own = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    variables = own | {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"} | environment
    done = subprocess.run([sys.executable, "-c", START], env=variables, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_second_start_finds_the_programs_of_the_first(tmp_path):
    folder, hits, value = start(tmp_path)
    assert Path(folder).is_relative_to(tmp_path / "jaxdiff")
    assert int(hits) == 0
    found, hits, same = start(tmp_path)
    assert (found, same) == (folder, value)
    assert int(hits) > 0


def test_a_folder_chosen_by_the_user_stands(tmp_path, no_cache):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert keep_compiled_programs() == tmp_path / "mine"
    assert chosen_folder() == str(tmp_path / "mine")


def test_where_the_cache_cannot_be_written_nothing_is_kept(tmp_path, monkeypatch, no_cache):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert keep_compiled_programs() is None
    assert not chosen_folder()


def test_the_cache_can_be_switched_off(tmp_path):
    folder, hits, _ = start(tmp_path, JAX_ENABLE_COMPILATION_CACHE="0")
    assert (folder, hits) == ("None", "0")
    assert not any(tmp_path.iterdir())
