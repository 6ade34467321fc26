"""Whole Keras models in HDF5, as Keras 2 and 3 save them: looked through as data, before Keras loads anything.

An HDF5 file can name other files to read from, and can declare more data than it holds. Its config can have Keras build
anything. All of that is refused here, whatever Keras itself would do with it.
"""

import json
import math
from pathlib import Path
from typing import Any

import h5py

from app.engines.tensorflow.keras_2_checks import check_keras_2
from app.engines.tensorflow.keras_3_config import read_keras_3
from app.errors import IntegrityError

CONFIG_ATTRIBUTE = "model_config"
MAX_CONFIG_BYTES = 8 * 1024 * 1024
MAX_ATTRIBUTE_BYTES = 1024 * 1024
MAX_EXPANSION = 100
"""A dataset may declare at most this many times the bytes that it holds."""
SMALL_BYTES = 4096
BUILT_IN_FILTERS = frozenset((h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32))
"""HDF5 looks for all other filters on the disk, as programs."""


def check_hdf5(path: Path) -> tuple[str, Any]:
    """Look a whole file through before Keras loads it; raise `IntegrityError` if it is not a whole, harmless model.

    Returns the first figure of the Keras version that wrote it, 2 or 3, and the config for that Keras.
    """
    try:
        with h5py.File(path, "r") as file:
            check_members(path.name, file)
            config = json.loads(read_config(path.name, file))
            version = read_version(path.name, file)
        if version == "3":
            return version, read_keras_3(path.name, config)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise IntegrityError(f"{path.name} is not an HDF5 file of Keras: {error}") from error
    check_keras_2(path.name, config)
    return version, config


def read_version(name: str, file: h5py.File) -> str:
    """Return the first figure of the Keras version that wrote a file; raises `IntegrityError` if it is none we read."""
    values = [file.attrs.get(key, "") for key in ("keras_version", "backend")]
    version, backend = (str(value.decode() if isinstance(value, bytes) else value) for value in values)
    if version[:2] not in ("2.", "3."):
        raise IntegrityError(f"{name} was written by Keras {version or '1':.20}; load and save it with Keras 2")
    if version[0] == "2" and backend != "tensorflow":
        raise IntegrityError(f"{name} was written on {backend:.20}; load and save it with Keras 2 on TensorFlow")
    return version[0]


def read_config(name: str, file: h5py.File) -> str:
    """Return the text of the model's config; a file of weights alone has none."""
    if CONFIG_ATTRIBUTE not in file.attrs or not isinstance(file.get("model_weights"), h5py.Group):
        raise IntegrityError(f"{name} holds no whole model; save it with model.save, not save_weights")
    text = file.attrs[CONFIG_ATTRIBUTE]
    if len(text) > MAX_CONFIG_BYTES:
        raise IntegrityError(f"{name}: {CONFIG_ATTRIBUTE} is larger than {MAX_CONFIG_BYTES} bytes")
    return str(text.decode() if isinstance(text, bytes) else text)


def check_members(name: str, file: h5py.File) -> None:
    """Follow every link of a file; raise `IntegrityError` at the first one that does not lead to plain data in it."""
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
    """Refuse a dataset that lies in another file, needs a foreign unpacker, or declares more than it holds."""
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
