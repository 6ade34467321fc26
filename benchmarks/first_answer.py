"""Seconds from a clone to a dropped picture's answer with its heat map: `python -m benchmarks.first_answer`.

It clones the last commit from this disk, so the time of a download is not in it. pip takes what its cache holds: run
it twice, and the second figure is that of a warm cache. With `--quick` the present environment is used, and nothing is
installed. Needs Chromium, and playwright-core as `tests/check.sh` installs it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from app.config.setting_types import PROJECT_ROOT
from benchmarks.scale import IS_QUICK, make_parser
from benchmarks.server import find_free_ports

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PICTURE = "models/pcam-classification/1.1/examples/metastatic.jpg"
USER = "demo"


def clone(target: Path) -> None:
    """Clone the last commit of this project, through git's protocol."""
    subprocess.run(["git", "clone", "--quiet", PROJECT_ROOT.as_uri(), str(target)], check=True)


def find_three_ports() -> int:
    """Return a port that nobody listens on; the two that follow it are most likely free too."""
    return min(port for port in find_free_ports(20) if port < 65_000)


def start(folder: Path, port: int) -> str:
    """Run the quick start, which leaves a server running, and return its user's password."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCANCER_")}
    if IS_QUICK:
        (folder / ".venv").symlink_to(sys.prefix)
        environment["PIP_DRY_RUN"] = "1"
    command = ["bash", "get_started/quick_start.sh", "--port", str(port)]
    with (folder / "quick_start.log").open("w+", encoding="utf-8") as log:  # the server keeps a pipe open
        done = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, check=False)
        log.seek(0)
        said = log.read()
    password = re.search(rf"User: +{USER}\nPassword: (\S+)", said)
    if done.returncode or password is None:
        raise RuntimeError(said)
    return password[1]


def drop_picture(folder: Path, port: int, password: str) -> dict[str, float]:
    """Drop an example in Chromium; return the seconds of the page, the answer and the heat map."""
    told = {
        "base": f"http://127.0.0.1:{port}",
        "user": USER,
        "password": password,
        "chromium": CHROMIUM,
        "modules": str(PROJECT_ROOT / "node_modules"),
        "picture": str(folder / PICTURE),
    }
    program = Path(__file__).with_suffix(".mjs")
    done = subprocess.run(["node", str(program), json.dumps(told)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    seen = json.loads(done.stdout)
    if seen["verdict"] != "metastatic":
        raise RuntimeError(f"answered {seen['verdict']}")
    return {
        "browser and page": seen["page"],
        "dropped picture to answer": seen["answer"],
        "answer to heat map": seen["map"],
    }


def measure(folder: Path, port: int) -> dict[str, float]:
    """Return the seconds of each step."""
    times = [time.monotonic()]
    clone(folder)
    times.append(time.monotonic())
    password = start(folder, port)
    times.append(time.monotonic())
    try:
        steps = drop_picture(folder, port, password)
    finally:
        stop = ["bash", "get_started/quick_start.sh", "--stop"]
        subprocess.run(stop, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return {"clone": times[1] - times[0], "quick start": times[2] - times[1], **steps}


def main() -> None:
    """Print the seconds of each step, and their sum."""
    make_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as parent:
        steps = measure(Path(parent) / "clone", find_three_ports())
    for name, seconds in steps.items():
        print(f"{name}: {seconds:.1f} s")
    print(f"from clone to heat map: {sum(steps.values()):.1f} s")


if __name__ == "__main__":
    main()
