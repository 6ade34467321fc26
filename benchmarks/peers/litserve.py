"""LitServe beside us: `python -m benchmarks.peers.litserve --environment FOLDER`.

    python3 -m venv FOLDER
    FOLDER/bin/pip install torch==2.13.0
    FOLDER/bin/pip install litserve pillow numpy safetensors

Two workers on the device "cpu" (its documentation: as many as cores), and the queue that it recommends for hundreds of
requests a second. It takes JSON; pictures are in base64, as in its own examples.
"""

import base64
import json

from benchmarks.peers.compare import compare
from benchmarks.peers.peer import EAGER_FILES, Peer, Setup


def prepare(setup: Setup) -> Peer:
    """Lay out its files."""
    folder = setup.copy_files("litserve_server.py", *EAGER_FILES)
    arguments = [str(setup.ports[0]), str(setup.batch_size), str(setup.delay_ms / 1000)]
    return Peer(
        "litserve",
        [setup.bin("python"), folder / "litserve_server.py", *arguments],
        "/predict",
        encode=lambda picture: json.dumps({"image": base64.b64encode(picture).decode()}).encode(),
        headers={"Content-Type": "application/json"},
    )


if __name__ == "__main__":
    compare(__doc__, prepare)
