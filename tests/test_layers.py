"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdiff

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "pytree": set(),
    "schedule": {"pytree"},
    "denoiser": {"pytree", "schedule"},
    "gaussian": {"pytree", "denoiser", "schedule"},
    "operators": {"pytree"},
    "diagnostics": {"pytree", "denoiser", "schedule", "sampling", "operators"},
    "exact": {"pytree", "gaussian", "operators"},
    "sampling": {"denoiser", "schedule"},
    "memory": set(),
    "devices": set(),
    "archive": {"sampling"},
    "chains": {"pytree", "denoiser", "devices", "memory", "sampling"},
    "samplers": {"pytree", "denoiser", "sampling"},
    "convolution": set(),
    "normalization": set(),
    "precision": set(),
    "unet": {"convolution", "normalization", "precision"},
    "checkpoint": {"denoiser", "precision", "schedule", "unet"},
    "train": {"denoiser", "schedule", "unet"},
    "metrics": set(),
    "posterior": {"pytree"},
    "lpips": set(),
    "images": set(),
    "faces": set(),
    "cli": {"runs"},
    "__main__": {"cli"},
    "__init__": {
        "diagnostics",
        "chains",
        "checkpoint",
        "denoiser",
        "exact",
        "faces",
        "gaussian",
        "operators",
        "posterior",
        "samplers",
        "sampling",
        "schedule",
    },
}
ALLOWED["runs"] = set(ALLOWED) - {"cli", "__main__", "__init__"} | {"__version__"}
SCRIPT_ONLY = {"torch", "tyro", "matplotlib", "gradio", "rich", "experiments", "convert_weights"}
MAY_IMPORT = {"cli": {"tyro"}, "runs": {"rich"}}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{a.name}" for a in node.names} if node.module == "jaxdiff" else {node.module}
    return found


def layer(path: Path) -> str:
    """The name of a file's layer: the file, or its folder inside the package."""
    return path.stem if path.parent.name == "jaxdiff" else path.parent.name


LIBRARY = sorted((ROOT / "jaxdiff").rglob("*.py"))


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_down(path):
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("jaxdiff.")}
    allowed = ALLOWED[layer(path)] | (set() if path.parent.name == "jaxdiff" else {path.parent.name})
    assert ours <= allowed
    assert not {name.split(".")[0] for name in imports(path)} & (SCRIPT_ONLY - MAY_IMPORT.get(layer(path), set()))


def test_samplers_never_import_each_other_operators_or_flax():
    for path in (ROOT / "jaxdiff" / "samplers").glob("*.py"):
        if path.name != "__init__.py":
            names = imports(path)
            assert not any(name.startswith(("flax", "jaxdiff.samplers", "jaxdiff.operators")) for name in names), path


def test_only_sampling_scans_over_time():
    loops = [
        p.name for p in LIBRARY if any(word in p.read_text() for word in ("lax.scan(", "fori_loop(", "while_loop("))
    ]
    assert loops == ["sampling.py"]


def test_a_command_line_needs_no_jax_to_start():
    script = "import jaxdiff, jaxdiff.cli, sys; assert not {'jax', 'flax', 'numpy'} & set(sys.modules), 'slow start'"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_every_public_name_is_found_late():
    assert set(jaxdiff.__all__) == set(jaxdiff._HOME) | {"exact", "faces", "gaussian", "operators", "posterior"}
    assert all(getattr(jaxdiff, name) is not None for name in jaxdiff.__all__)
    with pytest.raises(AttributeError, match="no attribute 'DSP'"):
        _ = jaxdiff.DSP
