"""TorchServe beside us: `python -m benchmarks.peers.torchserve --environment FOLDER`; it needs Java 17.

    python3 -m venv FOLDER
    FOLDER/bin/pip install torch==2.13.0 torchserve==0.12.0 torch-model-archiver pyyaml psutil packaging setuptools \\
        pillow numpy safetensors torchvision==0.28.0

torchvision is there for `--random` alone. TorchServe asks for no password, while we ask for one.
"""

import json
import os
import subprocess

from benchmarks.peers.compare import compare
from benchmarks.peers.peer import EAGER_FILES, Peer, Setup

CONFIG = """inference_address=http://127.0.0.1:{ports[0]}
management_address=http://127.0.0.1:{ports[1]}
metrics_address=http://127.0.0.1:{ports[2]}
grpc_inference_port={ports[3]}
grpc_management_port={ports[4]}
disable_token_authorization=true
model_store={folder}
load_models=peer.mar
models={models}
"""
SETTINGS = {"defaultVersion": True, "marName": "peer.mar", "minWorkers": 2, "maxWorkers": 2, "responseTimeout": 120}


def prepare(setup: Setup) -> Peer:
    """Make the archive with TorchServe's own tool, and write its configuration."""
    folder = setup.copy_files("torchserve_handler.py", *EAGER_FILES)
    pack = [setup.bin("torch-model-archiver"), "--model-name", "peer", "--version", "1.0", "--export-path", folder]
    pack += ["--handler", folder / "torchserve_handler.py", "--serialized-file", folder / "model.safetensors"]
    pack += ["--extra-files", ",".join(str(folder / name) for name in EAGER_FILES)]
    subprocess.run(pack, check=True, capture_output=True)
    version = {**SETTINGS, "batchSize": setup.batch_size, "maxBatchDelay": setup.delay_ms}
    models = json.dumps({"peer": {"1.0": version}})
    (folder / "config.properties").write_text(CONFIG.format(ports=setup.ports, folder=folder, models=models))
    return Peer(
        "torchserve",
        [setup.bin("torchserve"), "--foreground", "--ncs", "--ts-config", folder / "config.properties"],
        "/predictions/peer",
        settings={
            "PATH": f"{setup.bin('')}:{os.environ['PATH']}",
            "LOG_LOCATION": str(folder),
            "METRICS_LOCATION": str(folder),
        },
    )


if __name__ == "__main__":
    compare(__doc__, prepare)
