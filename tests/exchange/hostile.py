"""Archives and model files that no friend would send, built here byte by byte or with the formats' own tools.

Every generator writes one file or folder below the folder that it is given and returns its path. Those whose code would
run leave a canary: a file named `canary` beside them.
"""

import gzip
import io
import json
import os
import pickle
import pickletools
import shutil
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.config.setting_types import PROJECT_ROOT

PCAM = PROJECT_ROOT / "models/pcam-classification/1.0"
ISIC = PROJECT_ROOT / "models/isic-classification/1.0"
CANARY = "canary"
Generator = Callable[[Path], Path]
MANIFEST = ("model.toml", (PCAM / "model.toml").read_bytes())


class Canary:
    """An object whose unpickling writes a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._folder / CANARY,)


def write_zip(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], deflated: bool = False) -> Path:
    """Write members as they are named, twice if they are named twice."""
    method = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names that come twice
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in members:
                archive.writestr(name, data)
    return path


def zip_with(name: str) -> Generator:
    """An archive with a member of a hostile name."""
    return lambda folder: write_zip(folder / "model.zip", MANIFEST, (name, b"x"))


def zip_of_kind(kind: int) -> Generator:
    """An archive with a member that is no plain file."""

    def write(folder: Path) -> Path:
        info = zipfile.ZipInfo("model.safetensors")
        info.create_system, info.external_attr = 3, (kind | 0o777) << 16
        return write_zip(folder / "model.zip", MANIFEST, (info, b"/etc/passwd"))

    return write


def zip_patched(pattern: bytes, change: Callable[[bytes], bytes]) -> Generator:
    """An archive with a directory entry or header changed: `change` gets what follows the last `pattern`."""

    def write(folder: Path) -> Path:
        path = write_zip(folder / "model.zip", MANIFEST, ("model.safetensors", b"x" * 1000))
        data = path.read_bytes()
        at = data.rindex(pattern)
        path.write_bytes(data[:at] + change(data[at:]))
        return path

    return write


def put(offset: int, layout: str, *values: int) -> Callable[[bytes], bytes]:
    """A change that puts numbers at an offset."""

    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        struct.pack_into("<" + layout, changed, offset, *values)
        return bytes(changed)

    return change


def zip_bomb(folder: Path) -> Path:
    return write_zip(folder / "model.zip", MANIFEST, ("model.safetensors", bytes(64 << 20)), deflated=True)


def many_members(folder: Path) -> Path:
    return write_zip(folder / "model.zip", MANIFEST, *((f"examples/{n}.png", b"") for n in range(60_000)))


def overlapping_members(folder: Path) -> Path:
    """Two directory entries that share one member's bytes."""
    path = write_zip(folder / "model.zip", MANIFEST, ("aa.md", b"x" * 1000), ("bb.md", b"x" * 1000))
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        first = archive.getinfo("aa.md").header_offset
    entry = data.rindex(b"PK\x01\x02")
    path.write_bytes(data[:entry] + put(42, "L", first)(data[entry:]))
    return path


def member_in_a_member(folder: Path) -> Path:
    """A member whose header and data lie, both in order, inside another member's data."""
    path = write_zip(folder / "model.zip", ("bb.md", b"x"))
    inner = path.read_bytes()
    entry_at = inner.index(b"PK\x01\x02")
    outer = write_zip(path, ("aa.md", inner[:entry_at])).read_bytes()
    entry = put(42, "L", 35)(inner[entry_at:-22])
    path.write_bytes(outer[:-22] + entry + put(8, "2HL", 2, 2, 2 * len(entry))(outer[-22:]))
    return path


def member_that_goes_on(summed_bytes: int) -> Generator:
    """A member of 10 bytes by its headers, whose packed data hold 1000; the checksum is of the first few."""

    def write(folder: Path) -> Path:
        path = write_zip(folder / "model.zip", ("model.toml", b"x" * 1000), deflated=True)
        data, checksum = path.read_bytes(), zlib.crc32(b"x" * summed_bytes)
        at = data.rindex(b"PK\x01\x02")
        header = put(22, "L", 10)(put(14, "L", checksum)(data[:at]))
        path.write_bytes(header + put(24, "L", 10)(put(16, "L", checksum)(data[at:])))
        return path

    return write


def two_directories(folder: Path) -> Path:
    """One directory by the zip64 record, which some readers go by, and another by the record behind it."""
    path = write_zip(folder / "model.zip", MANIFEST, ("bb.md", b"x"))
    data = path.read_bytes()
    length, start = struct.unpack_from("<2L", data, len(data) - 10)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, length, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(data) - 22, 1)
    path.write_bytes(data[:-22] + record + locator + put(8, "2H", 1, 1)(data[-22:]))
    return path


def zip_changed(old: bytes, new: bytes, count: int) -> Generator:
    """An archive in which bytes were replaced: the name of a member stands first in its own header."""

    def write(folder: Path) -> Path:
        path = write_zip(folder / "model.zip", MANIFEST, ("READ-ME.txt", b"x"))
        path.write_bytes(path.read_bytes().replace(old, new, count))
        return path

    return write


def nested_zip(folder: Path) -> Path:
    inner = write_zip(folder / "inner.zip", ("a.md", b"x"))
    return write_zip(folder / "model.zip", MANIFEST, ("examples/a.png", inner.read_bytes()))


def zip_with_prefix(folder: Path) -> Path:
    path = write_zip(folder / "model.zip", MANIFEST)
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    return path


def zip_with_tail(folder: Path) -> Path:
    path = write_zip(folder / "model.zip", MANIFEST)
    path.write_bytes(path.read_bytes() + b"more")
    return path


def cut_short(source: Path, name: str) -> Generator:
    """The first two thirds of a good file."""

    def write(folder: Path) -> Path:
        data = source.read_bytes()
        (folder / name).write_bytes(data[: len(data) * 2 // 3])
        return folder / name

    return write


def cut_zip(folder: Path) -> Path:
    path = write_zip(folder / "model.zip", MANIFEST, ("model.safetensors", b"x" * 1000))
    path.write_bytes(path.read_bytes()[:-200])
    return path


def tgz_with(change: Callable[[tarfile.TarInfo], None]) -> Generator:
    """A gzipped tar archive with a hostile member."""

    def write(folder: Path) -> Path:
        with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
            for name, data in (MANIFEST, ("model.safetensors", b"")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                if not data:
                    change(info)
                archive.addfile(info, io.BytesIO(data))
        return folder / "model.tar.gz"

    return write


def tar_kind(kind: bytes, target: str = "") -> Generator:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = kind, target

    return tgz_with(change)


def tar_name(name: str) -> Generator:
    return tgz_with(lambda info: setattr(info, "name", name))


def tar_extended(key: str, value: str) -> Generator:
    return tgz_with(lambda info: setattr(info, "pax_headers", {key: value}))


def tgz_bomb(folder: Path) -> Path:
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("model.safetensors")
        info.size = 64 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    return folder / "model.tar.gz"


def tgz_of_headers(folder: Path) -> Path:
    """Folders without end: they pack to nearly nothing."""
    info = tarfile.TarInfo("a")
    info.type = tarfile.DIRTYPE
    with gzip.open(folder / "model.tar.gz", "wb") as file:
        file.write(info.tobuf() * 20_000 + bytes(1024))
    return folder / "model.tar.gz"


def tgz_with_endless_end(folder: Path) -> Path:
    with tarfile.open(folder / "a.tar", "w") as archive:
        info = tarfile.TarInfo(MANIFEST[0])
        info.size = len(MANIFEST[1])
        archive.addfile(info, io.BytesIO(MANIFEST[1]))
    with gzip.open(folder / "model.tar.gz", "wb") as file:
        file.write((folder / "a.tar").read_bytes() + bytes(8 << 20))
    return folder / "model.tar.gz"


def cut_tgz(folder: Path) -> Path:
    path = tar_name("model.md")(folder)
    path.write_bytes(path.read_bytes()[:-30])
    return path


def damaged_tgz(folder: Path) -> Path:
    path = tar_name("model.md")(folder)
    data = path.read_bytes()
    path.write_bytes(data[:100] + b"\xff" * 40 + data[140:])
    return path


def model_folder(folder: Path, name: str = "folder") -> Path:
    """A good folder of pcam-classification, without what a test may miss."""
    target = folder / name
    target.mkdir()
    for file in ("model.toml", "model.safetensors"):
        shutil.copy(PCAM / file, target / file)
    return target


def folder_with(change: Callable[[Path], object]) -> Generator:
    """A good folder that is made bad."""

    def write(folder: Path) -> Path:
        target = model_folder(folder)
        change(target)
        return target

    return write


def outside(target: Path) -> Path:
    """A file beside the folder, that nothing may read."""
    path = target.parent / "secret"
    path.write_bytes(b"secret")
    return path


def raw_pickle(protocol: int) -> Generator:
    def write(folder: Path) -> Path:
        (folder / "model.keras").write_bytes(pickle.dumps(Canary(folder), protocol))
        return folder / "model.keras"

    return write


def torch_zip(folder: Path, data: bytes, *more: tuple[str, bytes]) -> Path:
    """A file as torch.save writes it, with a pickle of our own."""
    return write_zip(folder / "model.safetensors", ("m/data.pkl", data), ("m/version", b"3\n"), *more)


def pickle_zip(folder: Path) -> Path:
    data = pickle.dumps({"weight": Canary(folder)}, 2)
    assert any(opcode.name == "REDUCE" for opcode, _, _ in pickletools.genops(data))
    return torch_zip(folder, data)


def old_tar_pickle(folder: Path) -> Path:
    with tarfile.open(folder / "model.safetensors", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(Canary(folder), 2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return folder / "model.safetensors"


def safetensors(folder: Path, header: dict[str, Any], data: bytes = b"", length: int | None = None) -> Path:
    text = json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def no_numbers(folder: Path) -> Path:
    """The shipped weights' names and shapes, every value of them NaN."""
    data = (PCAM / "model.safetensors").read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    (folder / "model.safetensors").write_bytes(data[:start] + b"\xff" * (len(data) - start))
    return folder / "model.safetensors"


def tensor(shape: list[int], *span: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": list(span)}


def keras_file(folder: Path, config: Any, weights: bytes = b"", *more: tuple[str, bytes]) -> Path:
    """A `.keras` file of a config and weights of our own."""
    members = [("config.json", json.dumps(config).encode()), ("metadata.json", b'{"keras_version": "3.15.1"}')]
    return write_zip(folder / "model.keras", *members, ("model.weights.h5", weights), *more)


def make_keras_code(folder: Path) -> dict[str, Any]:
    """Marshalled code, as Keras itself writes it."""
    code = compile(f"lambda x: (__import__('pathlib').Path({str(folder / CANARY)!r}).touch(), x)[1]", "a", "eval")
    import base64
    import marshal

    inner = marshal.dumps(code.co_consts[0] if hasattr(code.co_consts[0], "co_code") else code)
    value = {"code": base64.b64encode(inner).decode(), "defaults": None, "closure": None}
    return {"class_name": "__lambda__", "config": {"value": value}}


def keras_model(folder: Path, layer: dict[str, Any], **state: Any) -> Path:
    """A `.keras` file of an input and one more layer, without its weights."""
    pixels = {"batch_shape": [None, 144, 144, 3], "name": "pixels"}
    layers = [{"module": "keras.layers", "class_name": "InputLayer", "config": pixels}, layer]
    model = {"module": "keras", "class_name": "Sequential", "config": {"name": "model", "layers": layers}, **state}
    return keras_file(folder, model)


def keras_lambda(folder: Path) -> Path:
    """A layer of code."""
    config = {"name": "code", "function": make_keras_code(folder)}
    return keras_model(folder, {"module": "keras.layers", "class_name": "Lambda", "config": config})


def keras_operation(folder: Path) -> Path:
    """An operation whose module is the system's."""
    return keras_model(folder, {"module": "os", "class_name": "system", "config": {"command": f"touch {CANARY}"}})


def keras_training_state(folder: Path) -> Path:
    """A model whose loss is code, in a model whose loss is code."""
    state = {"optimizer": "adam", "loss": make_keras_code(folder), "metrics": [make_keras_code(folder)]}
    dense = {"module": "keras.layers", "class_name": "Dense", "config": {"name": "scores", "units": 2}}
    inner = {"module": "keras", "class_name": "Sequential", "config": {"name": "inner", "layers": [dense]}}
    return keras_model(folder, {**inner, "compile_config": state}, compile_config=state)


def shipped_keras_with(folder: Path, change: Callable[[Path], None]) -> Path:
    """The shipped Keras model with other weights; only for tests that have h5py."""
    with zipfile.ZipFile(ISIC / "model.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = folder / "weights.h5"
    weights.write_bytes(members["model.weights.h5"])
    change(weights)
    members["model.weights.h5"] = weights.read_bytes()
    return write_zip(folder / "model.keras", *members.items())


def first_dataset(file: Any) -> tuple[Any, str]:
    """Group and name of the first dataset of an open HDF5 file."""
    found: list[str] = []
    file.visititems(lambda name, each: found.append(name) if hasattr(each, "shape") and each.shape else None)
    group, _, name = found[0].rpartition("/")
    return file[group], name


def external_weights(folder: Path) -> Path:
    """Weights that lie in a file outside."""
    import h5py

    (folder / "secret").write_bytes(b"s" * (1 << 20))

    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            group, name = first_dataset(file)
            shape, dtype = group[name].shape, group[name].dtype
            del group[name]
            group.create_dataset(name, shape, dtype, external=[(str(folder / "secret"), 0, h5py.h5f.UNLIMITED)])

    return shipped_keras_with(folder, change)


def external_link(folder: Path) -> Path:
    """Weights that are a link into another file."""
    import h5py

    with h5py.File(folder / "secret.h5", "w") as file:
        file["weights"] = [1.0]

    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            group, name = first_dataset(file)
            del group[name]
            group[name] = h5py.ExternalLink(str(folder / "secret.h5"), "weights")

    return shipped_keras_with(folder, change)


def shape_bomb(folder: Path) -> Path:
    """Weights that declare four tebibytes and hold none."""
    import h5py

    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            group, name = first_dataset(file)
            del group[name]
            group.create_dataset(name, (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))

    return shipped_keras_with(folder, change)


def keras_behind_png(folder: Path) -> Path:
    """A picture to one reader, a model to another."""
    path = folder / "model.keras"
    path.write_bytes((PCAM / "examples/synthetic-normal.png").read_bytes() + (ISIC / "model.keras").read_bytes())
    return path


def hdf5_lambda(folder: Path) -> Path:
    """A model of Keras 2, whose config stands in an attribute."""
    import h5py

    with h5py.File(folder / "model.h5", "w") as file:
        layer = {"class_name": "Lambda", "config": {"function": ["code", None, None], "function_type": "lambda"}}
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": [layer]}})
        file.attrs["keras_version"], file.attrs["backend"] = "2.15.0", "tensorflow"
        file.create_group("model_weights")
    return folder / "model.h5"


def field(number: int, data: bytes | int) -> bytes:
    """A field of a protobuf message."""
    if isinstance(data, int):
        return bytes((number << 3, data))
    assert len(data) < 128
    return bytes((number << 3 | 2, len(data))) + data


def onnx(folder: Path) -> Path:
    """A graph whose one tensor lies in a file outside."""
    entry = field(1, b"location") + field(2, b"../../etc/passwd")
    graph = field(5, field(13, entry) + field(14, 1))
    path = folder / "model.onnx"
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(2, 17)))
    return path


def saved_model(folder: Path) -> Path:
    """A folder of TensorFlow's."""
    target = folder / "saved"
    (target / "variables").mkdir(parents=True)
    (target / "saved_model.pb").write_bytes(field(1, 1) + field(2, b"graph"))
    return target


def handler_archive(folder: Path) -> Path:
    """An archive of TorchServe's, with code of its own."""
    manifest = {"runtime": "python", "model": {"modelName": "m", "modelVersion": "1.0", "handler": "handler.py"}}
    code = f"from pathlib import Path\nPath({str(folder / CANARY)!r}).touch()\n"
    members = (("MAR-INF/MANIFEST.json", json.dumps(manifest).encode()), ("handler.py", code.encode()))
    return write_zip(folder / "model.mar", *members)


def code_in_folder(target: Path) -> None:
    (target / "handler.py").write_text(f"open({str(target.parent / CANARY)!r}, 'w')")


def torchscript(folder: Path) -> Path:
    more = (("m/code/__torch__.py", b"op_version_set = 1\n"), ("m/constants.pkl", b"\x80\x02).."))
    return torch_zip(folder, b"\x80\x02}.", *more)


def exported_program(folder: Path) -> Path:
    sample = pickle.dumps(Canary(folder), 2)
    inner = torch_zip(folder, sample).read_bytes()
    members = (("m/archive_format", b"pt2"), ("m/models/model.json", b"{}"), ("m/data/sample_inputs/model.pt", inner))
    return write_zip(folder / "model.safetensors", *members)


def make_fifo(target: Path) -> None:
    os.mkfifo(target / "a.md")


HOSTILE: dict[str, tuple[Generator, str]] = {
    "zip slip": (zip_with("../../canary"), "name that is not allowed"),
    "absolute name": (zip_with("/var/canary"), "name that is not allowed"),
    "backslash": (zip_with("..\\canary"), "name that is not allowed"),
    "drive letter": (zip_with("C:canary"), "name that is not allowed"),
    "newline": (zip_with("a\nb"), "name that is not allowed"),
    "other script": (zip_with("mödel.md"), "name that is not allowed"),
    "dot": (zip_with("a/./b.md"), "name that is not allowed"),
    "long name": (zip_with("a" * 201), "longer or deeper"),
    "deep name": (zip_with("a/" * 30 + "b"), "longer or deeper"),
    "zip: link": (zip_of_kind(stat.S_IFLNK), "link or a device"),
    "zip: device": (zip_of_kind(stat.S_IFCHR), "link or a device"),
    "zip: pipe": (zip_of_kind(stat.S_IFIFO), "link or a device"),
    "name twice": (zip_with("model.toml"), "a name twice"),
    "file and folder of one name": (zip_with("model.toml/a"), "a name twice"),
    "names that differ in case": (zip_with("MODEL.toml"), "upper and lower case"),
    "overlap": (overlapping_members, "differs from the archive's directory|overlap"),
    "member in a member": (member_in_a_member, "members overlap"),
    "member that goes on": (member_that_goes_on(10), "not what the archive's directory says"),
    "member that goes on by a byte, checksum right": (
        member_that_goes_on(11),
        "not what the archive's directory says",
    ),
    "two directories": (two_directories, "zip64 record is damaged"),
    "name in the header lies": (zip_changed(b"READ-ME.txt", b"READ_ME.txt", 1), "differs from"),
    "NUL in a name": (zip_changed(b"READ-ME.txt", b"READ.txt\0py", 2), "name that is not allowed"),
    "entry is longer than the directory": (zip_patched(b"PK\x01\x02", put(32, "H", 50)), "not filled by"),
    "size in the directory lies": (zip_patched(b"PK\x01\x02", put(24, "L", 10)), "contradict each other"),
    "sizes in the directory lie": (zip_patched(b"PK\x01\x02", put(20, "2L", 10, 10)), "differs from"),
    "size in the header lies": (zip_patched(b"PK\x03\x04", put(18, "2L", 10, 10)), "differs from"),
    "checksum lies": (zip_patched(b"x" * 1000, lambda data: b"y" + data[1:]), "damaged"),
    "count lies": (zip_patched(b"PK\x05\x06", put(8, "2H", 1, 1)), "not filled by the 1 members"),
    "directory elsewhere": (zip_patched(b"PK\x05\x06", put(16, "L", 1)), "not where its end says"),
    "encrypted": (zip_patched(b"PK\x01\x02", put(8, "H", 1)), "encrypted"),
    "other method": (zip_patched(b"PK\x01\x02", put(10, "H", 12)), "method 12"),
    "bomb": (zip_bomb, "unpacks to more than"),
    "60,000 members": (many_members, "at most 256"),
    "zip in a zip": (nested_zip, "holds another archive"),
    "two manifests": (zip_with("inner/model.toml"), "more than one manifest"),
    "manifests of two kinds": (zip_with("MAR-INF/MANIFEST.json"), "TorchServe archive|more than one manifest"),
    "bytes before": (zip_with_prefix, "no known format"),
    "bytes after": (zip_with_tail, "does not end"),
    "cut zip": (cut_zip, "does not end"),
    "tar: slip": (tar_name("../canary"), "name that is not allowed"),
    "tar: absolute": (tar_name("/var/canary"), "name that is not allowed"),
    "tar: link": (tar_kind(tarfile.SYMTYPE, "/etc/passwd"), "holds a link"),
    "tar: hard link": (tar_kind(tarfile.LNKTYPE, "model.toml"), "holds a hard link"),
    "tar: device": (tar_kind(tarfile.CHRTYPE), "holds a device"),
    "tar: block device": (tar_kind(tarfile.BLKTYPE), "holds a device"),
    "tar: pipe": (tar_kind(tarfile.FIFOTYPE), "holds a pipe"),
    "tar: name in an extended header": (tar_extended("path", "../canary"), "name that is not allowed"),
    "tar: link in an extended header": (tar_extended("linkpath", "/etc/passwd"), "holds linkpath"),
    "tar: size in an extended header": (tar_extended("size", "99999999999"), "holds size"),
    "tar: large extended header": (tar_extended("comment", "a" * 9000), "larger than 8192"),
    "tar: bomb": (tgz_bomb, "unpacks to more than"),
    "tar: headers without end": (tgz_of_headers, "more than the 256 members"),
    "tar: zeros without end": (tgz_with_endless_end, "bytes follow"),
    "cut tgz": (cut_tgz, "cut short"),
    "damaged tgz": (damaged_tgz, "damaged|no valid number"),
    "folder: link out": (folder_with(lambda f: (f / "a.md").symlink_to(outside(f))), "holds a link"),
    "folder: linked folder": (folder_with(lambda f: (f / "examples").symlink_to(f.parent)), "holds a link"),
    "folder: hard link": (folder_with(lambda f: (f / "a.md").hardlink_to(outside(f))), "holds a link"),
    "folder: pipe": (folder_with(make_fifo), "a pipe or a device"),
    "folder: code": (folder_with(code_in_folder), "no part of a model folder"),
    "folder: too many files": (folder_with(lambda f: [(f / f"{n}.md").touch() for n in range(300)]), "256 members"),
    "pickle 0": (raw_pickle(0), "is a pickle"),
    "pickle 2": (raw_pickle(2), "is a pickle"),
    "pickle 5": (raw_pickle(5), "is a pickle"),
    "pickle in a zip": (pickle_zip, "pickle of more than weights"),
    "old tar": (old_tar_pickle, "a tar file"),
    "TorchScript": (torchscript, "is TorchScript"),
    "torch.export": (exported_program, "torch.export archive"),
    "TorchServe archive": (handler_archive, "a TorchServe archive"),
    "ONNX with data outside": (onnx, "an ONNX model"),
    "SavedModel": (saved_model, "a TensorFlow SavedModel"),
    "Keras behind PNG": (keras_behind_png, "no known format"),
    "cut .keras": (cut_short(ISIC / "model.keras", "model.keras"), "does not end"),
    "safetensors: header lies": (lambda f: safetensors(f, {}, length=1 << 50), "no known format"),
}
"""What is refused before anything is loaded: generator and reason."""

LOADED: dict[str, tuple[Generator, str]] = {
    "Keras 2 Lambda": (hdf5_lambda, r"model\.h5 holds Lambda, which is not allowed"),
    "Keras Lambda": (keras_lambda, r"keras\.layers\.Lambda, which is not allowed"),
    "Keras operation of the system": (keras_operation, r"os\.system, which is not allowed"),
    "Keras training state": (keras_training_state, "Keras cannot load"),  # it has no weights
    "HDF5 with data outside": (external_weights, "Keras cannot load"),
    "HDF5 link outside": (external_link, "Keras cannot load"),
    "HDF5 shape bomb": (shape_bomb, "Keras cannot load"),
    "cut safetensors": (cut_short(PCAM / "model.safetensors", "model.safetensors"), "cannot be read as safetensors"),
    "safetensors: shape bomb": (
        lambda f: safetensors(f, {"a": tensor([1 << 40], 0, 4)}, b"1234"),
        "cannot be read as safetensors",
    ),
    "safetensors: overlap": (
        lambda f: safetensors(f, {"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, b"1234"),
        "cannot be read as safetensors",
    ),
    "weights of another network": (
        lambda f: safetensors(f, {"a": tensor([1], 0, 4)}, b"1234"),
        "does not hold the weights of efficientnet_lite0",
    ),
    "weights that are no numbers": (no_numbers, "not finite"),
}
"""What only the framework's own loader refuses, in the process that compiles."""
