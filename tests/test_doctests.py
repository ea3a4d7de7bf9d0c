"""The examples in the docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import jaxdiff

MODULES = [m.name for m in pkgutil.walk_packages(jaxdiff.__path__, "jaxdiff.")]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
