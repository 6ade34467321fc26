"""Finds a network's weights in what a trainer has saved: under a key, or under names with a prefix."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from app.errors import IntegrityError

DEPTH = 2
"""How many dicts may lie around the weights. An optimizer's state lies deeper."""
COUNTER = "num_batches_tracked"
"""End of the name of a count that training alone needs; files of old versions lack it."""
BESIDE = ("criterion.", "loss.", "loss_fn.", "loss_func.", "loss_function.", "n_averaged")
"""How weights begin that belong to the loss, or to an average over epochs, and not to the network."""
MOST_MISSING = 0.5
"""A file that lacks less of a network's names holds that network, changed."""
MAX_SHOWN = 60

Tensors = Mapping[str, Tensor]


class Place(NamedTuple):
    """Where weights lie: the keys that lead to them, and what stands before each name."""

    keys: tuple[str, ...]
    prefix: str

    def describe(self) -> str:
        """Name the place in a sentence."""
        under = f"under {'.'.join(self.keys)}"[:MAX_SHOWN] if self.keys else "of the file"
        return under + (f" with the prefix {self.prefix[:MAX_SHOWN]}" if self.prefix else "")


class Found(NamedTuple):
    """Weights by a network's names, and what lies beside them: all names, and those that the network should know."""

    place: Place
    weights: dict[str, Tensor]
    left: list[str]
    more: list[str]


def find_weights(file: str, content: Any, network: str, needed: Tensors) -> tuple[dict[str, Tensor], str]:
    """Take a network's weights out of what a file holds.

    Args:
        file: the file's name, for messages.
        content: what `read_weights` returned.
        network: name of the architecture.
        needed: the network's own tensors by name.

    Returns the weights by the network's names, and in a sentence what was done to find them; empty if nothing was.

    Raises `IntegrityError` if the file holds no such weights, or several, or more than the network has a place for.
    """
    found = list_found(content, needed)
    if len(found) > 1:
        raise refuse_several(file, network, found)
    if not found:
        raise _explain(file, content, network, needed)
    ((place, weights, left, more),) = found
    if more:
        raise IntegrityError(
            f"{file} holds {_name(more)}, for which {network} has no place; export the network as a whole instead"
        )
    for name, tensor in weights.items():
        _check_tensor(file, network, place.prefix + name, tensor, needed[name])
    return weights, _say(file, place, left)


def list_found(content: Any, needed: Tensors) -> list[Found]:
    """List every place in a file's content where tensors of all the names that a network needs lie."""
    found = []
    for keys, group in _list_groups(content, ()):
        for prefix in _find_prefixes(group, _list_names(needed)):
            weights = {name: group[prefix + name] for name in needed if prefix + name in group}
            left = sorted(set(group) - {prefix + name for name in needed})
            more = [name for name in left if not name.removeprefix(prefix).startswith(BESIDE)]
            found.append(Found(Place(keys, prefix), weights, left, more))
    return found


def refuse_several(file: str, network: str, found: list[Found]) -> IntegrityError:
    """Make the error that names every place, so that somebody chooses one."""
    held = " and ".join(each.place.describe() for each in found)
    return IntegrityError(
        f"{file} holds the weights of {network} {held}; save with torch.save those alone that are to be served"
    )


def _list_names(needed: Tensors) -> list[str]:
    """The names that a file must hold."""
    return [name for name in needed if not name.endswith(COUNTER)]


def _say(file: str, place: Place, left: list[str]) -> str:
    """Say what was done; nothing for a plain state dict."""
    done = f"{file}: took the weights {place.describe()}" if place != ((), "") else ""
    return f"{done or file + ': took the weights'}; left out {_name(left)}" if left else done


def _list_groups(content: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensors]]:
    """Yield the tensors of a dict, and of dicts in it, by the keys that lead there."""
    if not isinstance(content, dict):
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield keys, tensors
    for name, value in content.items():
        if isinstance(name, str) and len(keys) < DEPTH:
            yield from _list_groups(value, (*keys, name))


def _find_prefixes(group: Tensors, names: list[str]) -> list[str]:
    """Return every prefix with which a group has all the names."""
    found = (name.removesuffix(names[0]) for name in group if name.endswith(names[0]))
    return [each for each in found if each[-1:] in ("", ".") and all(each + name in group for name in names)]


def _explain(file: str, content: Any, network: str, needed: Tensors) -> IntegrityError:
    """Say why a file does not hold a network's weights, in few words."""
    groups = dict(_list_groups(content, ()))
    if not groups:
        held = f"{_name([str(key) for key in content])} alone" if isinstance(content, dict) and content else "no dict"
        return IntegrityError(
            f"{file} is no state dict: it holds {held}, and no tensors by name; "
            "save network.state_dict() with torch.save, and add that file"
        )
    keys, group = max(groups.items(), key=lambda item: len(item[1]))
    prefix, missing = _find_missing(group, needed)
    foreign = sorted(name for name in group if name.removeprefix(prefix or "") not in needed)
    change = "name the architecture that they are of, or export the network as a whole"
    if prefix is not None and _list_names(needed)[-len(missing) :] == missing:
        change = "its last layers were replaced: export the network as a whole (ONNX, TorchScript)"
    where = f" {Place(keys, '').describe()}" if keys else ""
    where += f" with the prefix {prefix[:MAX_SHOWN]}" if prefix else ""
    return IntegrityError(
        f"{file} does not hold the weights of {network}{where}: it lacks {_name(missing)}"
        + (f", and holds {_name(foreign)}" if foreign else "")
        + f"; {change}"
    )


def find_nearest(content: Any, networks: Mapping[str, Tensors]) -> str | None:
    """Name the network, of several, that a file holds most of; None if it holds less than half of each."""
    groups = [group for _, group in _list_groups(content, ())]
    missing = {
        name: min((len(_find_missing(group, needed)[1]) for group in groups), default=0) / len(_list_names(needed))
        for name, needed in networks.items()
    }
    nearest = min(missing, key=missing.__getitem__)
    return nearest if missing[nearest] < MOST_MISSING else None


def _find_missing(group: Tensors, needed: Tensors) -> tuple[str | None, list[str]]:
    """Return the prefix with which a group has most of the names that a network needs, and those that it lacks then.

    The prefix is None, and all names are lacking, where a group is of another network.
    """
    starts = ((name, at) for name in group for at in (0, *(dot.end() for dot in re.finditer(r"\.", name))))
    prefixes = Counter(name[:at] for name, at in starts if name[at:] in needed)
    names, prefix = _list_names(needed), prefixes.most_common(1)[0][0] if prefixes else ""
    missing = [name for name in names if prefix + name not in group]
    return (prefix, missing) if len(missing) < MOST_MISSING * len(names) else (None, names)


def _name(names: list[str]) -> str:
    """Name the first of some, and say how many more there are."""
    return names[0][:MAX_SHOWN] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _check_tensor(file: str, network: str, name: str, tensor: Tensor, wanted: Tensor) -> None:
    """Refuse what is not a plain tensor of the shape; one of stride 0 may declare a million times what it has."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise IntegrityError(f"{file} holds {name[:MAX_SHOWN]}, which is not a plain tensor of numbers")
    if tensor.shape != wanted.shape:
        shapes = f"{list(tensor.shape)}, and {network} with the manifest's classes needs {list(wanted.shape)}"
        raise IntegrityError(f"{file}: {name[:MAX_SHOWN]} is {shapes}{_suggest(tensor, wanted)}")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise IntegrityError(f"{file} holds {name[:MAX_SHOWN]}, which declares more numbers than it has")


def _suggest(tensor: Tensor, wanted: Tensor) -> str:
    """Say what to change for a tensor of another number of outputs or channels; nothing for any other shape."""
    found, needed = list(tensor.shape), list(wanted.shape)
    if found[1:] == needed[1:] and found:
        activation = "sigmoid" if found[0] == 1 else "softmax"
        return f'; name {max(found[0], 2)} classes in [output], and say activation = "{activation}"'
    if len(found) == 4 and found[:1] + found[2:] == needed[:1] + needed[2:]:
        return f"; it takes {found[1]} channels, and the server gives R, G and B: train the network with these"
    return ""
