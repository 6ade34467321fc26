"""BentoML beside us: `python -m benchmarks.peers.bentoml --environment FOLDER`.

    python3 -m venv FOLDER
    FOLDER/bin/pip install torch==2.13.0
    FOLDER/bin/pip install bentoml pillow numpy safetensors

Two workers and an API that is batchable over pictures, sent as multipart forms. How long it gathers a batch is found by
its own dispatcher, so `--delay-ms` says nothing here; its limit of latency is left as it is (60 s), for what would take
longer is refused.
"""

from benchmarks.peers.compare import compare
from benchmarks.peers.peer import EAGER_FILES, Peer, Setup

BOUNDARY = "part-of-a-form"
FORM = (
    f"--{BOUNDARY}\r\n"
    'Content-Disposition: form-data; name="images"; filename="picture"\r\n'
    "Content-Type: image/png\r\n\r\n"
)


def prepare(setup: Setup) -> Peer:
    """Lay out its files."""
    setup.copy_files("bentoml_service.py", *EAGER_FILES)
    command = [setup.bin("bentoml"), "serve", "bentoml_service:EagerService"]
    command += ["--host", "127.0.0.1", "--port", str(setup.ports[0])]
    return Peer(
        "bentoml",
        command,
        "/classify",
        encode=lambda picture: FORM.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode(),
        decode=lambda answer: answer[0],
        headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
        settings={
            "PEER_BATCH_SIZE": str(setup.batch_size),
            "BENTOML_HOME": str(setup.folder / "home"),
            "BENTOML_DO_NOT_TRACK": "True",
        },
    )


if __name__ == "__main__":
    compare(__doc__, prepare)
