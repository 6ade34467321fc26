"""What a prediction of a model archive costs on both roads: compiled, and by its handler.

`python -m benchmarks.archive_roads MODELS NAME PICTURE`: a folder with the unpacked archive, whose handler is
`image_classifier`; its name; a picture. Two servers of one worker run at once and are asked in turn, one request at a
time; processor time is that of all their processes.
"""

import http.client
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.scale import choose, make_parser
from benchmarks.server import MeasuredServer, make_headers, sum_cpu_s

ROUNDS, REQUESTS = choose((5, 8), (1, 2))
OWN_HANDLER = """
from ts.torch_handler.image_classifier import ImageClassifier


class Own(ImageClassifier):
    pass
"""


def copy_with_handler(models: Path, folder: Path) -> Path:
    """Copy the archives of a folder, each with a handler of its own that does what the default one does."""
    copied = shutil.copytree(models, folder / "models")
    for manifest in copied.glob("*/*/MAR-INF/MANIFEST.json"):
        document = json.loads(manifest.read_text())
        document["model"]["handler"] = "own.py"
        manifest.write_text(json.dumps(document))
        (manifest.parent.parent / "own.py").write_text(OWN_HANDLER)
    return copied


def find_processes(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    return [pid, *(each for child in children for each in find_processes(child))]


def ask(connection: http.client.HTTPConnection, name: str, picture: bytes) -> None:
    """Send one prediction and read its answer."""
    connection.request("PUT", f"/predictions/{name}", picture, make_headers())
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"answered {answer.status}: {body!r}")


def main(models: Path, name: str, picture: bytes) -> None:
    """Print the median of the rounds, a line for each road."""
    settings = {"workers": "1", "programs": "all"}
    cpu_ms: dict[str, list[float]] = {"compiled": [], "handler": []}
    wall_ms: dict[str, list[float]] = {"compiled": [], "handler": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        MeasuredServer(**settings, models=str(models)) as compiled,
        MeasuredServer(**settings, models=str(copy_with_handler(models, Path(folder)))) as handler,
    ):
        servers = {"compiled": compiled, "handler": handler}
        connections = {road: server.connect() for road, server in servers.items()}
        for round_ in range(ROUNDS + 1):
            for road, server in servers.items():
                processes = find_processes(server.process.pid)
                cpu_s, started = sum_cpu_s(processes), time.perf_counter()
                for _ in range(REQUESTS):
                    ask(connections[road], name, picture)
                if round_:  # the first one prepares
                    cpu_ms[road].append((sum_cpu_s(processes) - cpu_s) / REQUESTS * 1000)
                    wall_ms[road].append((time.perf_counter() - started) / REQUESTS * 1000)
    for road in servers:
        cpu, wall = statistics.median(cpu_ms[road]), statistics.median(wall_ms[road])
        print(f"{name}, {road}: {cpu:.1f} ms of CPU a prediction, {wall:.1f} ms until the answer")


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("models", type=Path)
    parser.add_argument("name")
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    main(options.models.resolve(), options.name, options.picture.read_bytes())
