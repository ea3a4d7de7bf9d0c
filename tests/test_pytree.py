"""Frozen dataclasses as PyTrees."""

import dataclasses

import jax
import pytest

from jaxdiff.pytree import pytree, static


@pytree
class Point:
    x: float
    name: str = static(default="a")

    def __post_init__(self):
        if self.x < 0:
            raise ValueError("negative")


def test_checks_at_construction_only():
    with pytest.raises(ValueError, match="negative"):
        Point(-1.0)
    moved = jax.tree.map(lambda x: -x, Point(1.0, "b"))
    assert (moved.x, moved.name) == (-1.0, "b")
    assert jax.tree.structure(Point(1.0, "a")) != jax.tree.structure(Point(1.0, "b"))
    assert jax.jit(lambda p: p.x * 2)(Point(3.0)) == 6
    with pytest.raises(dataclasses.FrozenInstanceError):
        moved.x = 2.0
