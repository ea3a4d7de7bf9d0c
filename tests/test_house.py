"""The order of the house: who may import whom, one home for every name, and nothing private of JAX."""

import ast
import pkgutil
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxdiff

ROOT = Path(__file__).parent.parent
ORDER = [
    {"pytree", "schedule", "errors", "disk", "noise"},
    {"networks"},
    {"operators"},
    {"measurement"},
    {"presets"},
    {"priors"},
    {"samplers"},
    {"guidance"},
    {"chains"},
    {"metrics"},
    {"images"},
    {"faces"},
    {"runs"},
    {"cli"},
]
"""The wings; a module imports from its own and from those before it."""

RANK = {wing: rank for rank, wings in enumerate(ORDER) for wing in wings}
LIBRARY = sorted((ROOT / "jaxdiff").rglob("*.py"))
INSIDE = [path for path in LIBRARY if path.parent != ROOT / "jaxdiff" or path.stem in RANK]
ALL = [*LIBRARY, *(path for folder in ("convert_weights", "experiments") for path in (ROOT / folder).rglob("*.py"))]
SCRIPT_ONLY = {"torch", "tyro", "matplotlib", "gradio", "rich", "h5py", "experiments", "convert_weights"}
MAY_IMPORT = {"cli": {"tyro", "rich", "convert_weights"}, "runs": {"rich", "matplotlib"}, "metrics": {"h5py"}}


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from running(node)


def imports(path: Path) -> set[str]:
    """Every module that a file imports when it runs, also inside functions."""
    found = set()
    for node in running(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def wing(path: Path) -> str:
    """The name of a file's wing."""
    return path.relative_to(ROOT / "jaxdiff").parts[0].removesuffix(".py")


def test_the_order_names_every_wing():
    assert {wing(path) for path in LIBRARY} - {"__init__", "__main__"} == set(RANK)


@pytest.mark.parametrize("path", INSIDE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_downwards(path):
    own = wing(path)
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("jaxdiff.")} & set(RANK)
    assert not {name for name in ours if RANK[name] > RANK[own]}
    others = {name.split(".")[0] for name in imports(path)}
    assert not others & SCRIPT_ONLY - MAY_IMPORT.get(own, set())


def test_families_do_not_lean_on_each_other():
    """A sampler's file imports `base` alone of its wing; so do operators and guidance. None knows Flax."""
    for folder in ("samplers", "operators", "guidance"):
        for path in (ROOT / "jaxdiff" / folder).glob("*.py"):
            beside = {name for name in imports(path) if name.startswith(f"jaxdiff.{folder}.")}
            if path.name != "__init__.py":
                assert all(name.startswith(f"jaxdiff.{folder}.base") for name in beside), path
            assert not any(name.startswith("flax") for name in imports(path)), path


def test_the_loop_over_diffusion_time_stands_once():
    loops = {path.stem for path in LIBRARY if "lax.scan(" in path.read_text()}
    assert loops == {"base", "tiles"}  # the latter's goes over the parts of an image


def test_nothing_private_of_jax_is_used():
    assert not [path for path in ALL if "jax._src" in path.read_text()]


def test_a_public_name_has_one_definition():
    """Scripts, which nobody imports from, may name their stages alike: `main`, `figure`, `write_report`."""
    homes = defaultdict(set)
    for path in ALL:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                is_script = path.name == "__main__.py" or path.parent == ROOT / "experiments"
                homes[node.name].add("a script" if is_script else path.relative_to(ROOT).as_posix())
    homes["main"].discard("jaxdiff/cli/main.py")
    homes["Config"].discard("a script")
    twice = {name: sorted(paths) for name, paths in homes.items() if len(paths) > 1}
    assert not twice, twice


def test_a_command_line_needs_no_jax_to_start():
    script = "import jaxdiff, jaxdiff.cli, sys; assert not {'jax', 'flax', 'numpy'} & set(sys.modules), 'slow start'"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_every_public_name_is_found_late():
    assert set(jaxdiff.__all__) == set(jaxdiff._NAMES) | set(jaxdiff._MODULES)
    assert all(getattr(jaxdiff, name) is not None for name in jaxdiff.__all__)
    with pytest.raises(AttributeError, match="no attribute 'DSP'"):
        _ = jaxdiff.DSP


def test_dotted_names_in_docstrings_exist():
    named = re.compile(r"`((?:jaxdiff|convert_weights|experiments)(?:\.\w+)+)(?:\([^`]*\))?`")
    wrong = []
    for path in ALL:
        for name in set(named.findall(path.read_text())):
            try:
                pkgutil.resolve_name(name)
            except (ImportError, AttributeError):
                wrong.append((path.relative_to(ROOT).as_posix(), name))
    assert not wrong
