"""AUC of the shipped models through the running service: `python -m benchmarks.auc_over_http --data FOLDER`.

FOLDER holds `pcam.tar`, `isic224.tar` and their manifests. Every picture of the main test sets is sent as a file.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.scale import IS_QUICK, choose, make_parser
from benchmarks.server import MeasuredServer
from training.evaluation import estimate_auc
from training.image_folder import read_manifest

SETS = {"pcam": "pcam", "isic": "isic224"}
FLOORS = {"pcam": 0.955, "isic": 0.93}


def is_in_main_test(name: str, row: dict[str, str]) -> bool:
    """Whether a picture belongs to the set the model card's first row is measured on."""
    if row["split"] != "test":
        return False
    return "_patch" in row["file"] if name == "pcam" else row["origin"] == "HAM10000"


def read_pictures(data: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield label and file of each picture of the main test set."""
    rows = [row for row in read_manifest(data, name).values() if is_in_main_test(name, row)][:: choose(1, 100)]
    with tarfile.open(data / f"{name}.tar") as archive:
        for row in rows:
            handle = archive.extractfile(row["file"])
            assert handle is not None, "the manifest names files only"
            yield int(row["label"]), handle.read()


def main() -> None:
    """Print a line a model; end with 1 if a floor is missed."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    missed = False
    with MeasuredServer(workers="2") as server:
        for name, positive in (("pcam", "metastatic"), ("isic", "malignant")):
            labels, scores = [], []
            for label, picture in read_pictures(data, SETS[name]):
                status, answer = server.request("PUT", f"/predictions/{name}-classification?unfit=answer", picture)
                if status != 200:
                    raise RuntimeError(f"answered {status}: {answer}")
                labels.append(label)
                scores.append(answer["probabilities"][positive])
            auc = estimate_auc(np.array(labels), np.array(scores))
            missed |= auc.value < FLOORS[name]
            print(f"{name}-classification: AUC {auc.value:.4f} ({auc.low:.4f} to {auc.high:.4f}), {auc.n} pictures")
    raise SystemExit(int(missed and not IS_QUICK))


if __name__ == "__main__":
    main()
