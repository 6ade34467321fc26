"""Compiles model folders one after the other in one process, and says how each was refused.

`main` is what `run_confined` runs: `python -m … REASONS FOLDER…` writes a JSON object of reasons by folder.
"""

import json
import sys
from pathlib import Path

from app.compiling.folder_compiler import compile_model
from app.errors import ScancerError


def main() -> int:
    """Compile the folders that the command line names."""
    reasons = {}
    for folder in sys.argv[2:]:
        try:
            compile_model(Path(folder))
        except ScancerError as error:
            reasons[folder] = error.message
    Path(sys.argv[1]).write_text(json.dumps(reasons), encoding="utf-8")
    return 0
