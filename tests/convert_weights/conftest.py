"""The original PyTorch UNet, and products at full precision, for the tests of conversion."""

import jax
import pytest


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("float32"):
        yield


@pytest.fixture
def adm():
    pytest.importorskip("torch")
    pytest.importorskip("azula")
    import azula.plugins.adm._src.unet as module  # pyright: ignore[reportMissingImports]

    return module
