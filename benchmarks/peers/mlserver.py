"""MLServer beside us: `python -m benchmarks.peers.mlserver --environment FOLDER`.

    python3 -m venv FOLDER
    FOLDER/bin/pip install torch==2.13.0
    FOLDER/bin/pip install mlserver uvloop==0.21.0 pillow numpy safetensors

A custom runtime, two parallel workers and adaptive batches. It takes the JSON of the Open Inference Protocol; pictures
are in base64, as its own codec for bytes has it. Workers of MLServer 1.7.1 die at once with a later uvloop.
"""

import base64
import json
from typing import Any

from benchmarks.peers.compare import compare
from benchmarks.peers.peer import EAGER_FILES, Peer, Setup


def encode(picture: bytes) -> bytes:
    """Put a picture into a request of the protocol."""
    tensor = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    return json.dumps({"inputs": [{**tensor, "data": [base64.b64encode(picture).decode()]}]}).encode()


def decode(answer: dict[str, Any]) -> dict[str, float]:
    """Take the probabilities out of an answer."""
    return {output["name"]: output["data"][0] for output in answer["outputs"]}


def prepare(setup: Setup) -> Peer:
    """Lay out its files, and write its settings."""
    folder = setup.copy_files("mlserver_runtime.py", *EAGER_FILES)
    names = ("http_port", "grpc_port", "metrics_port")
    server = {**dict(zip(names, setup.ports, strict=False)), "host": "127.0.0.1", "parallel_workers": 2}
    batching = {"max_batch_size": setup.batch_size, "max_batch_time": setup.delay_ms / 1000}
    model = {"name": "peer", "implementation": "mlserver_runtime.EagerRuntime", **batching}
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return Peer(
        "mlserver",
        [setup.bin("mlserver"), "start", folder],
        "/v2/models/peer/infer",
        encode=encode,
        decode=decode,
        headers={"Content-Type": "application/json"},
    )


if __name__ == "__main__":
    compare(__doc__, prepare)
