"""Tells what a file is from its content, never from its name, and whether loading it can run code.

It loads nothing. A confined process still checks a file as a whole when it loads it. A mistake here may refuse a good
file, but lets no bad one run.
"""

import pickletools
import re
from enum import Enum, StrEnum
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipFile, ZipInfo

from app.engines.pytorch.checkpoint_classes import is_tensor_class, is_training_class
from app.errors import ArchiveError
from app.exchange import tgz_reader, zip_reader
from app.manifest.model_manifest import MANIFEST_FILE
from app.processes.plain_files import open_plain

HANDLER_MANIFEST = "MAR-INF/MANIFEST.json"
"""Place of the manifest in TorchServe's archives."""
HEAD_BYTES = 4096
MAX_LISTED_MEMBERS = 65_536
MAX_PICKLE_BYTES = 64 << 20
KERAS_MARKS = {"config.json", "model.weights.h5"}
KERAS_MEMBERS = KERAS_MARKS | {"metadata.json"}


class Trust(StrEnum):
    """What loading a file of a format may do."""

    DATA = "data"
    PROGRAM = "program"
    NEVER = "never"


RUNS_CODE = "loading it can run code"
SAVE_WEIGHTS = f"{RUNS_CODE}; save network.state_dict() with torch.save, and add that file"


class ModelFormat(Enum):
    """A format: its title in messages, with the article, what loading a file of it may do, and advice on a refusal."""

    SAFETENSORS = ("safetensors", Trust.DATA)
    STATE_DICT = ("a PyTorch state dict or checkpoint", Trust.DATA)
    KERAS = ("a .keras file", Trust.DATA)
    HDF5 = ("an HDF5 file", Trust.DATA)
    PACKED = ("a packed model folder", Trust.DATA)
    FOLDER = ("a model folder", Trust.DATA)
    TORCHSCRIPT = ("TorchScript", Trust.PROGRAM)
    PT2 = ("a torch.export archive", Trust.PROGRAM)
    SAVED_MODEL = ("a TensorFlow SavedModel", Trust.PROGRAM)
    ONNX = ("an ONNX model", Trust.PROGRAM)
    OPENVINO = ("an OpenVINO IR", Trust.PROGRAM, f"{RUNS_CODE}; add the model that it was made from")
    MAR = ("a TorchServe archive", Trust.PROGRAM, "add it alone, without a manifest")
    PICKLE = ("a pickle", Trust.NEVER, SAVE_WEIGHTS)
    TORCH_PICKLE = ("a PyTorch pickle of more than weights", Trust.NEVER, SAVE_WEIGHTS)
    OLD_TORCH = (
        "a PyTorch file in the form of before version 1.6",
        Trust.NEVER,
        "read it with torch.load(file, weights_only=True), and save its state dict with torch.save",
    )
    TFLITE = ("a TensorFlow Lite model", Trust.NEVER, "add the Keras model or the SavedModel that it was made from")
    LFS_POINTER = ("a pointer of Git LFS, and not the file itself", Trust.NEVER, "fetch the file with git lfs pull")
    WEB_PAGE = ("a web page, and not a model", Trust.NEVER, "download the file itself")
    TAR = ("a tar file", Trust.NEVER, "pack it as .tar.gz or .zip")
    ARCHIVE = ("an archive of another kind", Trust.NEVER, "unpack it, and add what is in it")
    UNKNOWN = ("of no known format", Trust.NEVER)

    def __init__(self, title: str, trust: Trust, advice: str = RUNS_CODE) -> None:
        self.title, self.trust, self.advice = title, trust, advice


# A pickle begins with its protocol. Without one, it begins with an opcode that opens a call or a container.
PICKLE_PATTERN = rb"\x80[\x01-\x05]|c[\w.]+\n[\w.]+\n|\(i[\w.]+\n[\w.]+\n|\([dlt]|\([ld]p\d|\(c[\w.]+\n|[\]}][(q]"
HEADS = (
    (rb"PK\x05\x06|\x1f\x8b[^\x08]|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", ModelFormat.ARCHIVE),
    (rb"\x89HDF\r\n\x1a\n", ModelFormat.HDF5),
    (rb".{257}ustar", ModelFormat.TAR),
    (rb".{4}\0{4}\{", ModelFormat.SAFETENSORS),  # length of the header, then the header in JSON
    (rb"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", ModelFormat.OLD_TORCH),  # its magic number, pickled
    (PICKLE_PATTERN, ModelFormat.PICKLE),
    (rb".{4}TFL3", ModelFormat.TFLITE),
    (rb"version https://git-lfs", ModelFormat.LFS_POINTER),
    (rb"(?i)\s*<(!doctype html|html)", ModelFormat.WEB_PAGE),
    (rb"\s*(<\?xml[^>]*\?>)?\s*<net[\s>]", ModelFormat.OPENVINO),
    # Protobuf messages, written in the order of their fields: saved_model_schema_version is 1, then meta_graphs;
    (rb"\x08\x01\x12", ModelFormat.SAVED_MODEL),
    # ir_version is above 1, then any of producer_name, producer_version, domain, model_version, doc_string and graph.
    (rb"\x08[\x02-\x1f][\x12\x1a\x22\x28\x32\x3a]", ModelFormat.ONNX),
)
"""How files of a format begin; the first pattern that matches decides."""
ZIP_MARKS = (
    ({HANDLER_MANIFEST}, ModelFormat.MAR),
    ({MANIFEST_FILE}, ModelFormat.PACKED),
    ({"archive_format", "serialized_exported_program.json"}, ModelFormat.PT2),
    ({"constants.pkl"}, ModelFormat.TORCHSCRIPT),
)
"""Names that only one kind of zip archive holds; the first row that is found decides."""
FOLDER_MARKS = (
    (MANIFEST_FILE, ModelFormat.FOLDER),
    (HANDLER_MANIFEST, ModelFormat.MAR),
    ("saved_model.pb", ModelFormat.SAVED_MODEL),
)


def describe_unknown(path: Path) -> str:
    """Say of a file or folder of no known format what is taken instead."""
    if path.is_dir():
        return f"{path.name} is a folder without {' or '.join(mark for mark, _ in FOLDER_MARKS)}"
    reason = "of no known format, or damaged" if path.stat().st_size else "empty"
    return (
        f"{path.name} is {reason}; taken are safetensors, state dicts of PyTorch, .keras and .h5, ONNX, TorchScript, "
        ".pt2, SavedModels, archives of TorchServe, and model folders, packed as zip or tar.gz or not"
    )


def identify(path: Path) -> ModelFormat:
    """Tell what a file or folder is; `UNKNOWN` for a damaged archive. Raises `OSError`."""
    return identify_folder(path) if path.is_dir() else identify_file(path)


def identify_folder(folder: Path) -> ModelFormat:
    """Tell what a folder is."""
    for mark, found in FOLDER_MARKS:
        if (folder / mark).is_file():
            return found
    if any(identify_file(path) is ModelFormat.OPENVINO for path in sorted(folder.glob("*.xml"))):
        return ModelFormat.OPENVINO
    return ModelFormat.UNKNOWN


def identify_file(path: Path) -> ModelFormat:
    """Tell what a file is."""
    with open_plain(path) as file:
        head = file.read(HEAD_BYTES)
        if head.startswith(zip_reader.MAGIC):
            return identify_zip(file)
    if head.startswith(tgz_reader.MAGIC):
        return identify_tgz(path)
    return next((found for pattern, found in HEADS if re.match(pattern, head, re.DOTALL)), ModelFormat.UNKNOWN)


def identify_zip(file: BinaryIO) -> ModelFormat:
    """Tell what a zip archive is by the names in its directory, with and without a root folder."""
    try:
        archive = zip_reader.open_zip(file, MAX_LISTED_MEMBERS)
        members = {info.orig_filename: info for info in zip_reader.list_files(archive)}
        inner_names = {name.partition("/")[2] for name in members}
        for marks, found in ZIP_MARKS:
            if marks & (members.keys() | inner_names):
                return found
        if members.keys() >= KERAS_MARKS and all(
            name in KERAS_MEMBERS or name.startswith("assets/") for name in members
        ):
            return ModelFormat.KERAS
        pickles = [info for name, info in members.items() if name.endswith("/data.pkl")]
        if not pickles:
            return ModelFormat.ARCHIVE
        is_plain = len(pickles) == 1 and is_checkpoint(archive, pickles[0])
        return ModelFormat.STATE_DICT if is_plain else ModelFormat.TORCH_PICKLE
    except ArchiveError:
        return ModelFormat.UNKNOWN


def is_checkpoint(archive: ZipFile, info: ZipInfo) -> bool:
    """Whether a pickle is a dict that names no class but those of tensors and of training; it is read, not run.

    torch's own restricted loader has the last word.
    """
    if info.file_size > MAX_PICKLE_BYTES:
        return False
    data = b"".join(zip_reader.read_member(archive, info))
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                return False  # torch.save writes protocol 2, which has none of these
            if opcode.name == "GLOBAL":
                texts.append(str(argument).replace(" ", "."))
    except ValueError:
        return False
    is_dict = data[2:3] == b"}" or texts[:1] == ["collections.OrderedDict"]
    return is_dict and all(is_tensor_class(text) or is_training_class(text) for text in texts)


def identify_tgz(path: Path) -> ModelFormat:
    """Tell what a gzipped tar archive is by its names; the search ends where the archive would be a bomb."""
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
