"""Frozen dataclasses that are JAX PyTrees."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

T = TypeVar("T")

Number = float | Float[Array, ""]
"""A number of a sampler: known, or traced where it is swept, learned or exchanged."""


def static(**kwargs: Any) -> Any:
    """Marks a dataclass field as static: it decides a shape or a Python branch, so it keys the compilation."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen dataclass and registers it as a PyTree.

    Fields are leaves (or sub-trees) unless declared with `static()`. Rebuilding an instance from its leaves skips
    `__init__` and `__post_init__`, so a constructor may check its arguments although JAX also builds
    instances that hold tracers, axis numbers or None.

    Two instances are equal (`==`) if they are of one class and all their numbers, and all that is static, are equal. A
    traced number is equal to itself alone.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)  # pyright: ignore[reportCallIssue, reportArgumentType]
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    is_static = {f.name: f.metadata.get("static", False) for f in fields}
    data_names = [name for name, s in is_static.items() if not s]
    static_names = [name for name, s in is_static.items() if s]

    def flatten_with_keys(tree):
        children = [(jax.tree_util.GetAttrKey(n), getattr(tree, n)) for n in data_names]
        return children, tuple(getattr(tree, n) for n in static_names)

    def flatten(tree):
        return [getattr(tree, n) for n in data_names], tuple(getattr(tree, n) for n in static_names)

    def unflatten(static_values, children):
        tree = object.__new__(cls)
        for name, value in zip(data_names, children, strict=True):
            object.__setattr__(tree, name, value)
        for name, value in zip(static_names, static_values, strict=True):
            object.__setattr__(tree, name, value)
        return tree

    def equal(self: T, other: object) -> bool:
        if type(other) is not cls or jax.tree.structure(self) != jax.tree.structure(other):
            return False
        return all(map(_same, jax.tree.leaves(self), jax.tree.leaves(other)))

    cls.__eq__, cls.__hash__ = equal, lambda self: hash(jax.tree.structure(self))
    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def _same(a: Any, b: Any) -> bool:
    if a is b or isinstance(a, Tracer) or isinstance(b, Tracer):
        return a is b
    if np.shape(a) != np.shape(b):
        return False
    with jax.ensure_compile_time_eval():  # known numbers, also where a function is being traced
        return bool(np.all(a == b))


@jax.tree_util.register_static
class Plain:
    """An object that JAX does not know, as a PyTree without leaves: called, and asked, like the object itself.

    What the object holds becomes part of the compiled program, and another object, even with the same text, is
    compiled anew: write a `pytree` class for numbers that are exchanged.

    Args:
        wrapped: a function, or an instance of any class.
    """

    def __init__(self, wrapped: Any):
        self.wrapped = wrapped

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the object."""
        return self.wrapped(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped" or name.startswith("__"):  # not there yet while a copy is made
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and other.wrapped is self.wrapped

    def __hash__(self) -> int:
        return id(self.wrapped)

    def __repr__(self) -> str:
        return repr(self.wrapped)


def as_pytree(tree: Any) -> Any:
    """Returns a PyTree whose leaves are numbers and arrays: all other leaves, as plain functions, become `Plain`."""
    known = lambda leaf: hasattr(leaf, "dtype") or isinstance(leaf, bool | int | float | complex | Plain)
    return jax.tree.map(lambda leaf: leaf if known(leaf) else Plain(leaf), tree)
