"""Ray Serve beside us: `python -m benchmarks.peers.ray_serve --environment FOLDER`.

    python3 -m venv FOLDER
    FOLDER/bin/pip install torch==2.13.0
    FOLDER/bin/pip install "ray[serve]" pillow numpy safetensors

Two replicas of one core each, started from a configuration file, and its decorator for batches.
"""

import json

from benchmarks.peers.compare import compare
from benchmarks.peers.peer import EAGER_FILES, Peer, Setup


def prepare(setup: Setup) -> Peer:
    """Lay out its files, and write its configuration (JSON is YAML)."""
    folder = setup.copy_files("ray_deployment.py", *EAGER_FILES)
    deployment = {"name": "EagerDeployment", "num_replicas": 2, "ray_actor_options": {"num_cpus": 1}}
    application = {
        "name": "peer",
        "route_prefix": "/",
        "import_path": "ray_deployment:build",
        "args": {"batch_size": setup.batch_size, "delay_s": setup.delay_ms / 1000},
        "deployments": [deployment],
    }
    address = {"host": "127.0.0.1", "port": setup.ports[0]}
    configuration = {"http_options": address, "applications": [application]}
    (folder / "serve.yaml").write_text(json.dumps(configuration))
    return Peer(
        "ray",
        [setup.bin("serve"), "run", "serve.yaml"],
        "/",
        settings={"HOME": str(folder), "RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"},
    )


if __name__ == "__main__":
    compare(__doc__, prepare)
