"""Whole Keras models in HDF5, as Keras 2 and 3 save them: looked through as data, before Keras loads anything.

An HDF5 file can name other files to read from, declare more than it holds, and, by its config, have Keras build
anything. All of that is refused here, whatever Keras itself would say.
"""

import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from app.engines.keras_classes import LEGACY_MODELS, find_classes, is_allowed_in_hdf5, refuse_class
from app.errors import IntegrityError

CONFIG_ATTRIBUTE, WEIGHTS_GROUP = "model_config", "model_weights"
MAX_CONFIG_BYTES = 8 * 1024 * 1024
MAX_ATTRIBUTE_BYTES = 1024 * 1024
MAX_EXPANSION = 100
"""A dataset may declare at most this many times the bytes that it holds."""
SMALL_BYTES = 4096
BUILT_IN_FILTERS = frozenset((h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32))
"""All others are programs that HDF5 looks for on the disk."""
KERAS_2_MODULE = re.compile(r"(tf_)?keras(\.src)?\.engine\.(functional|sequential|training)")


@contextmanager
def open_checked_hdf5(path: Path) -> Iterator[Path]:
    """Look a file through, and have it for a while as Keras 3 understands it.

    Yields:
        The file itself, or a copy with another config if Keras 2 wrote one that Keras 3 stumbles over.

    Raises:
        IntegrityError: it is not a whole model, or it holds what is not allowed.
    """
    config = read_checked_config(path)
    tidy = tidy_config(config)
    if tidy == config:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.h5"
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            file.attrs[CONFIG_ATTRIBUTE] = json.dumps(tidy).encode()
        yield copy


def read_checked_config(path: Path) -> Any:
    """Check the whole file and return its config; raises `IntegrityError`."""
    try:
        with h5py.File(path, "r") as file:
            check_members(path.name, file)
            config = json.loads(read_config(path.name, file))
        classes = [(module, name) for module, name in find_classes(config) if not is_keras_2_model(module, name)]
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise IntegrityError(f"{path.name} is not an HDF5 file of Keras: {error}") from error
    for module, name in classes:
        if not is_allowed_in_hdf5(module, name):
            raise refuse_class(path.name, module, name)
    return config


def read_config(name: str, file: h5py.File) -> str:
    """Return the text of the model's config; a file of weights alone has none."""
    if CONFIG_ATTRIBUTE not in file.attrs or not isinstance(file.get(WEIGHTS_GROUP), h5py.Group):
        raise IntegrityError(f"{name} holds no whole model; save it with model.save, not save_weights")
    text = file.attrs[CONFIG_ATTRIBUTE]
    if len(text) > MAX_CONFIG_BYTES:
        raise IntegrityError(f"{name}: {CONFIG_ATTRIBUTE} is larger than {MAX_CONFIG_BYTES} bytes")
    return str(text.decode() if isinstance(text, bytes) else text)


def check_members(name: str, file: h5py.File) -> None:
    """Look at every link of a file, and raise `IntegrityError` at the first that does not lead to plain data in it."""
    groups = [file["/"]]
    seen = {h5py.h5o.get_info(groups[0].id).addr}
    while groups:
        group = groups.pop()
        check_attributes(name, group)
        for key in group:
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise IntegrityError(f"{name} holds a link, {key}, which may lead out of it")
            member = group[key]
            address = h5py.h5o.get_info(member.id).addr
            if address in seen:
                raise IntegrityError(f"{name} holds {key} under two names")
            seen.add(address)
            if isinstance(member, h5py.Group):
                groups.append(member)
            elif isinstance(member, h5py.Dataset):
                check_dataset(name, member)
            else:
                raise IntegrityError(f"{name} holds {key}, which is neither a group nor a dataset")


def check_dataset(name: str, dataset: h5py.Dataset) -> None:
    """Refuse a dataset that lies elsewhere, is unpacked by a program from elsewhere, or declares what it has not."""
    if dataset.external or dataset.is_virtual:
        raise IntegrityError(f"{name} holds {dataset.name}, whose data lie in another file")
    plan = dataset.id.get_create_plist()
    check_attributes(name, dataset)
    if any(plan.get_filter(index)[0] not in BUILT_IN_FILTERS for index in range(plan.get_nfilters())):
        raise IntegrityError(f"{name} holds {dataset.name}, which is packed by a filter that HDF5 does not bring")
    declared = math.prod(dataset.shape or (0,)) * dataset.dtype.itemsize
    if declared > MAX_EXPANSION * dataset.id.get_storage_size() + SMALL_BYTES:
        raise IntegrityError(f"{name} holds {dataset.name}, which declares {declared} bytes and has far fewer")


def check_attributes(name: str, member: h5py.Group | h5py.Dataset) -> None:
    """Refuse attributes so large that reading them would take the memory."""
    for key in member.attrs:
        attribute = member.attrs.get_id(key)
        if math.prod(attribute.shape) * attribute.dtype.itemsize > MAX_ATTRIBUTE_BYTES:
            raise IntegrityError(f"{name} holds an attribute of more than {MAX_ATTRIBUTE_BYTES} bytes")


def is_keras_2_model(module: Any, name: str) -> bool:
    """Whether a class is the container of layers by the name that Keras 2 gave it; `tidy_config` renames it."""
    return isinstance(module, str) and name in LEGACY_MODELS and KERAS_2_MODULE.fullmatch(module) is not None


def tidy_config(config: Any) -> Any:
    """Return a config as Keras 3 reads it; that of Keras 3 comes back as it is.

    Three things of Keras 2 stop Keras 3: modules it no longer has, a list round the lone input or output of a model
    inside a model, and `groups` of `DepthwiseConv2D`.
    """
    if isinstance(config, list):
        return [tidy_config(value) for value in config]
    if not isinstance(config, dict):
        return config
    tidy = {key: tidy_config(value) for key, value in config.items()}
    name, inner = tidy.get("class_name"), tidy.get("config")
    if is_keras_2_model(tidy.get("module"), str(name)):
        tidy.pop("module")
        tidy.pop("registered_name", None)
    if name in LEGACY_MODELS and isinstance(inner, dict):
        for key in ("input_layers", "output_layers"):
            layers = inner.get(key)
            if isinstance(layers, list) and len(layers) == 1 and isinstance(layers[0], list):
                inner[key] = layers[0]
    if name == "DepthwiseConv2D" and isinstance(inner, dict) and inner.get("groups") == 1:
        inner.pop("groups")
    return tidy
