"""Writes a model folder as one archive file, the same bytes every time."""

import stat
import zipfile
from pathlib import Path

from app.exchange.unpacking import ArchiveLimits, Names, read_folder
from app.processes.atomic import replace_file
from app.repository.model_content import is_hidden
from app.repository.model_folder import ModelFolder

OLDEST_TIME = (1980, 1, 1, 0, 0, 0)
PLAIN_FILE = (stat.S_IFREG | 0o644) << 16
UNIX = 3


def pack_model(folder: ModelFolder, output: Path) -> None:
    """Write a model folder to the zip archive `output` in one step; raises `ModelFolderError` or `OSError`.

    Weights hardly shrink, so nothing is compressed: the bytes then depend on the folder alone, on no library's version.
    """
    folder.verify_artifact(folder.read_manifest())
    limits = ArchiveLimits(bytes=0)
    names = Names(limits.members)
    with replace_file(output) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, chunks in read_folder(folder.path, limits):
            if not is_hidden(name):
                names.add(name)
                info = zipfile.ZipInfo(name, OLDEST_TIME)
                info.create_system, info.external_attr = UNIX, PLAIN_FILE
                with archive.open(info, "w", force_zip64=True) as member:
                    member.writelines(chunks)
