"""Folders that are made beside their place and put there by one rename, so that nobody meets half of one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import CompiledModelError

COMPILING_PATTERN = ".compiling-*"
"""Name of the folder in which a compiled model is made."""


@contextmanager
def stage(model_folder: Path, pattern: str, name: str) -> Iterator[Path]:
    """Give a folder whose sub-folder `name` is to be filled, and put that into the model folder when the block ends.

    An earlier one stays if the block raises. `pattern` is the staging folder's name; its `*` becomes this process's id.
    Raises `CompiledModelError` if a folder cannot be written.
    """
    staging = model_folder / pattern.replace("*", str(os.getpid()))
    try:
        (staging / name).mkdir(parents=True)
        yield staging
        shutil.rmtree(model_folder / name, ignore_errors=True)
        (staging / name).replace(model_folder / name)
    except OSError as error:
        raise CompiledModelError(f"the folder {name} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
