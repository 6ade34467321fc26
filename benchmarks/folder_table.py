"""CPU time of `flask classify` beside the bare model: `python -m benchmarks.folder_table MODEL FOLDER`.

The bare model runs in this process: Pillow decodes each picture of FOLDER, and the compiled model infers it.
The command's time includes its start. CPU time is told, since other processes on the machine do not change it much.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from app.cli.classifying.picture_paths import find_paths
from app.config.setting_types import PROJECT_ROOT
from benchmarks.bare import decode, open_bare
from benchmarks.scale import choose, make_parser

ROUNDS = choose(3, 1)
MOST = choose(1_000_000, 8)
JOBS = 2


def measure_bare_s(model: str, pictures: list[str]) -> float:
    """CPU seconds to decode and infer the pictures, one by one."""
    infer, (height, width, _) = open_bare(model)
    started = time.process_time()
    for picture in pictures:
        infer(decode(Path(picture).read_bytes(), width, height))
    return time.process_time() - started


def measure_command_s(model: str, pictures: list[str]) -> float:
    """CPU seconds of the command, from its start to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "flask",
            "classify",
            model,
            "--jobs",
            str(JOBS),
            "--csv",
            f"{folder}/table.csv",
        ]
        subprocess.run([*command, *pictures], cwd=PROJECT_ROOT, check=True, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the best round of both."""
    parser = make_parser(__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    pictures = find_paths([str(arguments.folder.resolve())]).pictures[:MOST]
    rounds = [
        (measure_bare_s(arguments.model, pictures), measure_command_s(arguments.model, pictures)) for _ in range(ROUNDS)
    ]
    bare_s, command_s = (min(column) for column in zip(*rounds, strict=True))
    print(
        f"{len(pictures)} pictures: bare {bare_s:.2f} s of CPU, flask classify {command_s:.2f} s with its start, "
        f"{command_s / bare_s:.2f} times as much"
    )


if __name__ == "__main__":
    main()
