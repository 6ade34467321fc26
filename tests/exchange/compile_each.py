"""Compiles model folders one after the other in one process, and says how each was refused."""

import json
from pathlib import Path

from app.compiling.folder_compiler import compile_model
from app.errors import ScancerError


def compile_each(reasons: str, *folders: str) -> None:
    """Compile the folders, and write a JSON object of reasons by folder: what `run_confined` runs."""
    found = {}
    for folder in folders:
        try:
            compile_model(folder)
        except ScancerError as error:
            found[folder] = error.message
    Path(reasons).write_text(json.dumps(found), encoding="utf-8")
