"""The service as a whole: `python -m benchmarks`; some minutes, on a machine that does nothing else.

Runs one after the other what also runs alone: `stages`, `load`, `footprint` and `many_models`.
"""

import subprocess
import sys

from app.config.setting_types import PROJECT_ROOT
from benchmarks.scale import IS_QUICK, make_parser

MODULES = ("stages", "load", "footprint", "many_models")


def main() -> None:
    """Run each in a process of its own; the first that fails ends all."""
    make_parser(__doc__).parse_args()
    for module in MODULES:
        print(f"\n## {module}\n", flush=True)
        subprocess.run(
            [sys.executable, "-m", f"benchmarks.{module}", *["--quick"] * IS_QUICK], cwd=PROJECT_ROOT, check=True
        )


if __name__ == "__main__":
    main()
