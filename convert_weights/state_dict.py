"""Find the weights of a network in what a trainer has saved.

Trainers wrap the same weights in many ways: in dictionaries and lists, under prefixes, beside averages over the
training. A network is known by a few names of its tensors, wherever they stand and whatever stands before them.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convert_weights.torch_pickle import Placeholder, TensorView

Views = Mapping[str, TensorView]

AVERAGED = {"ema", "averaged", "average", "avg", "swa", "shadow", "polyak"}
# Weights kept beside averages, and the averages of gradients that optimizers keep.
NOT_AVERAGED = {"online", "collected", "raw"}
OF_GRADIENTS = re.compile("(exp|square|grad)_avg")

# What the trainers of DDIM, and those derived from them, save: a list in this order.
DDIM_LIST = ("model", "optimizer", "epoch", "step", "ema")

# Where a file is nested without end.
MAX_PLACE = 1000

# What wrappers put into the middle of a name.
INSERTED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


class Stored(NamedTuple):
    """What a file describes.

    Attributes:
        content: dictionaries and lists, nested, with `TensorView`s in them.
        load: reads the numbers of some of these tensors.
        files: all files of it.
    """

    content: object
    load: Callable[[Views], dict[str, np.ndarray]]
    files: tuple[Path, ...]


class Found(NamedTuple):
    """The weights of a network: its tensors by name, where they were, and where others were that were not taken."""

    views: Views
    wrapper: str
    averaged: bool
    others: tuple[str, ...] = ()


def has_marks(content: object, marks: tuple[str, ...]) -> bool:
    """Tells whether there are tensors of these names, under any prefix."""
    return any(True for _, views in _containers(content) for _ in _prefixed(views, marks))


def find_weights(content: object, marks: tuple[str, ...], wrapper: str | None = None) -> Found:
    """Finds a network's weights in the content of a checkpoint.

    Args:
        content: dictionaries and lists, nested, with `TensorView`s in them.
        marks: names of tensors by which the network is known.
        wrapper: where to take them from, if there are several; by default the averaged ones.

    Raises:
        ValueError: if there are none, or several and nothing says which to take. The message continues a sentence
            that begins with the name of the file.
    """
    if isinstance(content, TensorView):
        raise ValueError("holds a tensor, not a dict of named tensors")
    containers = list(_containers(content))
    if any(key.startswith("first_stage_model.") for _, views in containers for key in views):
        raise ValueError("holds a latent diffusion model: its network knows codes of pictures, not pictures")
    candidates = _distinct(_candidates(containers, marks))
    if not candidates:
        raise ValueError(nothing_found(content, f"this kind of network: `{marks[0]}` is missing, under any prefix"))
    if wrapper is not None:
        return _asked_for(candidates, wrapper.strip("."))
    averaged = [found for found in candidates if found.averaged]
    chosen = averaged or candidates
    if not averaged and (unread := _averages(containers)):
        raise ValueError(
            f"has averaged weights under `{unread}`, in a form that is not read; "
            f"--weights {candidates[0].wrapper or '.'} takes those that are not averaged"
        )
    if len(chosen) > 1:
        raise ValueError(f"holds several networks: {_listed(chosen)}; say with --weights which to take")
    return chosen[0]._replace(others=tuple(found.wrapper for found in candidates if found is not chosen[0]))


def _asked_for(candidates: list[Found], wrapper: str) -> Found:
    for found in candidates:
        if found.wrapper == wrapper:
            return found._replace(others=tuple(other.wrapper for other in candidates if other is not found))
    raise ValueError(f"holds no weights under {wrapper or '.'}, but under {_listed(candidates)}")


def _listed(candidates: list[Found]) -> str:
    return ", ".join(found.wrapper or "." for found in candidates)


def _containers(content: object) -> Iterator[tuple[str, dict[str, TensorView]]]:
    """Every dictionary or list that holds tensors, with where it is; each one once."""
    if isinstance(content, list) and len(content) == len(DDIM_LIST) and isinstance(content[2], int):
        content = dict(zip(DDIM_LIST, content, strict=True))
    waiting, seen = deque([("", content)]), set()
    while waiting:
        place, container = waiting.popleft()
        if id(container) in seen or len(place) > MAX_PLACE:
            continue
        seen.add(id(container))
        items = dict(enumerate(container)) if isinstance(container, list | tuple) else container
        if not isinstance(items, dict):
            continue
        views = {key: value for key, value in items.items() if isinstance(value, TensorView)}
        if views:
            yield place, {str(key): value for key, value in views.items()}
        inside = ((f"{place}.{key}".lstrip("."), value) for key, value in items.items() if key not in views)
        waiting.extend((name, value) for name, value in inside if isinstance(value, dict | list | tuple))


def _candidates(containers: list[tuple[str, dict[str, TensorView]]], marks: tuple[str, ...]) -> Iterator[Found]:
    plain = []
    for place, views in containers:
        for prefix, inside in _prefixed(views, marks):
            wrapper = f"{place}.{prefix}".strip(".")
            found = Found(inside, wrapper, _is_average(wrapper))
            plain.append(found)
            yield found
            yield from _joined_names(place, views, prefix, found)
    for place, views in containers:
        if _is_average(place) and list(views) == [str(i) for i in range(len(views))]:
            yield from _in_order(place, views, plain)


def _prefixed(views: Views, marks: tuple[str, ...]) -> Iterator[tuple[str, Views]]:
    starts = [key.removesuffix(marks[0]) for key in views if key == marks[0] or key.endswith(f".{marks[0]}")]
    prefixes = [start for start in starts if all(start + mark in views for mark in marks)]
    for prefix in prefixes:
        longer = tuple(other for other in prefixes if len(other) > len(prefix))
        inside = {key: view for key, view in views.items() if key.startswith(prefix) and not key.startswith(longer)}
        named = {INSERTED.sub("", key.removeprefix(prefix)): view for key, view in inside.items()}
        if len(named) < len(inside):
            raise ValueError("holds tensors whose names are the same without what wrappers put into them")
        yield prefix, named


def _joined_names(place: str, views: Views, prefix: str, found: Found) -> Iterator[Found]:
    """Averages kept as buffers, whose names may hold no dots: `model_ema.unetout0bias` of `unet.out.0.bias`."""
    for average in sorted({key.partition(".")[0] for key in views if _is_average(key.partition(".")[0])}):
        for start in (i for i in range(len(prefix) + 1) if i == 0 or prefix[i - 1] == "."):
            names = {name: f"{average}.{(prefix[start:] + name).replace('.', '')}" for name in found.views}
            if all(joined in views for joined in names.values()):
                taken = {name: views[joined] for name, joined in names.items()}
                yield Found(taken, f"{place}.{average}".strip("."), averaged=True)
                break


def _in_order(place: str, views: Views, plain: list[Found]) -> Iterator[Found]:
    """Averages kept as a list, in the order of the weights that they are of."""
    for found in plain:
        if [view.shape for view in views.values()] == [view.shape for view in found.views.values()]:
            yield Found(dict(zip(found.views, views.values(), strict=True)), place, averaged=True)


def _distinct(candidates: Iterator[Found]) -> list[Found]:
    distinct: list[Found] = []
    for found in sorted(candidates, key=lambda found: not found.averaged):
        if not any(found.views == other.views for other in distinct):
            distinct.append(found)
    return distinct


def _is_average(name: str) -> bool:
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", OF_GRADIENTS.sub("", name))}
    return bool(words & AVERAGED) and not words & NOT_AVERAGED


def _averages(containers: list[tuple[str, dict[str, TensorView]]]) -> str:
    """Where there is an averaged tensor that is more than a counter; "" if nowhere."""
    places = (
        (f"{place}.{key.partition('.')[0]}".strip("."), view)
        for place, views in containers
        for key, view in views.items()
    )
    return next((place.partition("._")[0] for place, view in places if view.shape and _is_average(place)), "")


def nothing_found(content: object, sought: str) -> str:
    """Says what the content of a file is that does not hold what is sought; continues the name of the file."""
    if isinstance(content, TensorView):
        return "holds a tensor, not a dict of named tensors"
    names = [f"{place}.{key}".strip(".") for place, views in _containers(content) for key in views]
    if any("_parameters." in name for name in names):
        return "holds a module as a whole, not its weights by name; save its state_dict() instead"
    if not names:
        kind = "another object" if isinstance(content, Placeholder) else f"of type {type(content).__name__}"
        keys = ", ".join(repr(key) for key in list(content)[:8]) if isinstance(content, dict) else ""
        return f"holds no tensors; it is {kind}" + (f" with {keys}" if keys else "")
    more = f" and {len(names) - 4:,} more" if len(names) > 4 else ""
    listed = ", ".join(f"`{name}`" for name in names[:4])
    return f"does not hold {sought}; it has {listed}{more}"
