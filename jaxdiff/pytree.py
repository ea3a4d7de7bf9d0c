"""Frozen dataclasses that are JAX PyTrees."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax
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
    """
    cls = dataclasses.dataclass(frozen=True)(cls)  # pyright: ignore[reportCallIssue, reportArgumentType]
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

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
