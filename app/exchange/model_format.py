"""Tells what a file is from its content, never from its name, and whether loading it can run code.

It looks and loads nothing: a file that looks harmless here is still loaded in a process of its own, by a loader that
cannot run code. So a mistake here may refuse a good file, but allows no bad one.
"""

import json
import math
import pickletools
import re
import struct
from collections.abc import Iterator
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from app.errors import ArchiveError
from app.exchange import tgz_reader, zip_reader
from app.manifest.model_manifest import MANIFEST_FILE

HANDLER_MANIFEST = "MAR-INF/MANIFEST.json"
"""Where the manifest of TorchServe's archives lies."""
HEAD_BYTES = 4096
MAX_LISTED_MEMBERS = 65_536
MAX_PICKLE_BYTES = 64 << 20
MAX_SAFETENSORS_HEADER_BYTES = 16 << 20
KERAS_MARKS = {"config.json", "model.weights.h5"}
KERAS_MEMBERS = KERAS_MARKS | {"metadata.json"}
ITEM_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8}
ITEM_BITS |= {"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32}
ITEM_BITS |= {"I64": 64, "U64": 64, "F64": 64, "C64": 64}
# What the pickle of a state dict refers to; torch's own safe loader has a longer list, and the last word.
TENSOR_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage"
    r"|torch\.storage (Untyped|Typed)Storage|torch\.serialization _get_layout"
)


class Trust(StrEnum):
    """What loading a file of a format may do."""

    DATA = "data"
    PROGRAM = "program"
    NEVER = "never"


class ModelFormat(Enum):
    """A format: how it is called, and its trust."""

    SAFETENSORS = ("safetensors", Trust.DATA)
    STATE_DICT = ("a PyTorch state dict", Trust.DATA)
    KERAS = ("a .keras file", Trust.DATA)
    HDF5 = ("an HDF5 file", Trust.DATA)
    PACKED = ("a packed model folder", Trust.DATA)
    FOLDER = ("a model folder", Trust.DATA)
    TORCHSCRIPT = ("TorchScript", Trust.PROGRAM)
    PT2 = ("a torch.export archive", Trust.PROGRAM)
    SAVED_MODEL = ("a TensorFlow SavedModel", Trust.PROGRAM)
    ONNX = ("an ONNX model", Trust.PROGRAM)
    OPENVINO = ("an OpenVINO IR", Trust.PROGRAM)
    MAR = ("a TorchServe archive", Trust.PROGRAM)
    PICKLE = ("a pickle", Trust.NEVER)
    TORCH_PICKLE = ("a PyTorch pickle of more than weights", Trust.NEVER)
    TAR = ("a tar file", Trust.NEVER)
    ARCHIVE = ("an archive of another kind", Trust.NEVER)
    UNKNOWN = ("of no known format", Trust.NEVER)

    @property
    def title(self) -> str:
        """How it is called."""
        return self.value[0]

    @property
    def trust(self) -> Trust:
        """What loading it may do."""
        return self.value[1]


# A pickle begins with its protocol, or, before there was one, with an opcode that opens a call or a container.
PICKLE_PATTERN = rb"\x80[\x01-\x05]|c[\w.]+\n[\w.]+\n|\(i[\w.]+\n[\w.]+\n|\([dlt]|\([ld]p\d|\(c[\w.]+\n|[\]}][(q]"
HEADS = (
    (re.compile(rb"PK\x05\x06|\x1f\x8b[^\x08]|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd"), ModelFormat.ARCHIVE),
    (re.compile(rb"\x89HDF\r\n\x1a\n"), ModelFormat.HDF5),
    (re.compile(rb".{257}ustar", re.DOTALL), ModelFormat.TAR),
    (re.compile(PICKLE_PATTERN), ModelFormat.PICKLE),
    (re.compile(rb"\s*(<\?xml[^>]*\?>)?\s*<net[\s>]"), ModelFormat.OPENVINO),
)
"""What the first bytes of a file say."""
ZIP_MARKS = (
    ({HANDLER_MANIFEST}, ModelFormat.MAR),
    ({MANIFEST_FILE}, ModelFormat.PACKED),
    ({"archive_format", "serialized_exported_program.json"}, ModelFormat.PT2),
    ({"constants.pkl"}, ModelFormat.TORCHSCRIPT),
)
"""Names that only one kind of zip archive holds; the first that is found says which it is."""


def identify(path: Path) -> ModelFormat:
    """Tell what a file or folder is; one that is damaged is `UNKNOWN`. Raises `OSError` if it cannot be read."""
    return identify_folder(path) if path.is_dir() else identify_file(path)


def identify_folder(folder: Path) -> ModelFormat:
    """Tell what a folder is."""
    if (folder / MANIFEST_FILE).is_file():
        return ModelFormat.FOLDER
    if (folder / HANDLER_MANIFEST).is_file():
        return ModelFormat.MAR
    if (folder / "saved_model.pb").is_file():
        return ModelFormat.SAVED_MODEL
    if any(identify_file(path) is ModelFormat.OPENVINO for path in sorted(folder.glob("*.xml"))):
        return ModelFormat.OPENVINO
    return ModelFormat.UNKNOWN


def identify_file(path: Path) -> ModelFormat:
    """Tell what a file is."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        for pattern, found in HEADS:
            if pattern.match(head):
                return found
        if head.startswith(zip_reader.MAGIC):
            return identify_zip(file)
        if head.startswith(tgz_reader.MAGIC):
            return identify_tgz(path)
        return ModelFormat.SAFETENSORS if is_safetensors(file) else identify_protobuf(file)


def identify_zip(file: BinaryIO) -> ModelFormat:
    """Tell what a zip archive is by the names in its directory, with and without a root folder."""
    try:
        members = {member.name: member for member in zip_reader.read_directory(file, MAX_LISTED_MEMBERS)}
        names = set(members)
        for marks, found in ZIP_MARKS:
            if names & marks or {name.partition("/")[2] for name in names} & marks:
                return found
        if names >= KERAS_MARKS and all(name in KERAS_MEMBERS or name.startswith("assets/") for name in names):
            return ModelFormat.KERAS
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if not pickles:
            return ModelFormat.ARCHIVE
        holds_tensors = len(pickles) == 1 and has_only_tensors(file, members[pickles[0]])
        return ModelFormat.STATE_DICT if holds_tensors else ModelFormat.TORCH_PICKLE
    except ArchiveError:
        return ModelFormat.UNKNOWN


def has_only_tensors(file: BinaryIO, member: zip_reader.ZipMember) -> bool:
    """Whether a pickle refers to nothing but what tensors are made of; it is read, not run."""
    if member.bytes > MAX_PICKLE_BYTES:
        return False
    data = b"".join(zip_reader.read_member(file, member))
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                return False  # torch.save writes protocol 2, which has none of these
            if opcode.name == "GLOBAL":
                texts.append(str(argument))
    except ValueError:
        return False
    return all(TENSOR_GLOBALS.fullmatch(text) for text in texts)


def identify_tgz(path: Path) -> ModelFormat:
    """Tell what a gzipped tar archive is by its names; the search ends where it would be a bomb."""
    left = max(1 << 20, 100 * path.stat().st_size)
    try:
        for name, chunks in tgz_reader.read_tgz(path, MAX_LISTED_MEMBERS):
            inner = name.partition("/")[2]
            if HANDLER_MANIFEST in (name, inner):
                return ModelFormat.MAR
            if MANIFEST_FILE in (name, inner):
                return ModelFormat.PACKED
            for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    return ModelFormat.ARCHIVE
    except ArchiveError:
        return ModelFormat.UNKNOWN
    return ModelFormat.ARCHIVE


def is_safetensors(file: BinaryIO) -> bool:
    """Whether a file is safetensors: a header whose tensors fill the rest exactly, none of them twice."""
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(9)
    if len(start) < 9 or start[8:] != b"{":
        return False
    (length,) = struct.unpack("<Q", start[:8])
    if length > min(MAX_SAFETENSORS_HEADER_BYTES, size - 8):
        return False
    try:
        header = json.loads(start[8:] + file.read(length - 1))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        spans = sorted(measure_tensor(entry) for entry in tensors)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    ends = [0] + [end for _, end in spans]
    return [begin for begin, _ in spans] == ends[:-1] and ends[-1] == size - 8 - length


def measure_tensor(entry: dict[str, Any]) -> tuple[int, int]:
    """Begin and end of a tensor's bytes; raises `ValueError` if its shape needs another number of them."""
    begin, end = entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (begin, end, *entry["shape"])):
        raise ValueError("numbers must be whole")
    if (end - begin) * 8 != math.prod(entry["shape"]) * ITEM_BITS[entry["dtype"]]:
        raise ValueError("shape and bytes differ")
    return begin, end


def identify_protobuf(file: BinaryIO) -> ModelFormat:
    """Tell an ONNX model and the file of a SavedModel by the fields of their outermost message."""
    fields = set()
    try:
        for number, kind in read_fields(file):
            fields.add((number, kind))
    except ValueError:
        return ModelFormat.UNKNOWN
    if {(1, 0), (7, 2), (8, 2)} <= fields:  # ModelProto: ir_version, graph, opset_import
        return ModelFormat.ONNX
    if fields == {(1, 0), (2, 2)}:  # SavedModel: saved_model_schema_version, meta_graphs
        return ModelFormat.SAVED_MODEL
    return ModelFormat.UNKNOWN


def read_fields(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield number and wire type of the fields of a protobuf message that fills the file; raises `ValueError`."""
    size = file.seek(0, 2)
    file.seek(0)
    while file.tell() < size:
        key = read_varint(file)
        number, kind = key >> 3, key & 7
        if kind == 0:
            read_varint(file)
        elif kind in (1, 5):
            file.seek(8 if kind == 1 else 4, 1)
        elif kind == 2:
            file.seek(min(read_varint(file), size + 1), 1)
        if kind not in (0, 1, 2, 5) or not number or file.tell() > size:
            raise ValueError("no protobuf")
        yield number, kind


def read_varint(file: BinaryIO) -> int:
    """Read a number of seven bits a byte; raises `ValueError` if it is longer than ten bytes or cut short."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("no number")
