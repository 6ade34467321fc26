"""The predecessor's way beside us: `python -m benchmarks.peers.keras_flask --environment FOLDER`.

    python3 -m venv FOLDER
    FOLDER/bin/pip install tensorflow==2.21.0 keras==3.15.1 flask==3.1.3 pillow==13.0.0

`model.predict` of the shipped isic model in a Flask view, on Flask's development server: one process, a thread a
connection, TensorFlow with as many threads as it likes. It has neither workers nor batches.
"""

from benchmarks.peers.compare import compare, open_shipped
from benchmarks.peers.peer import Peer, Setup

ISIC = open_shipped("isic-classification", "benign.jpg", "malignant.jpg")


def prepare(setup: Setup) -> Peer:
    """Lay out its files."""
    setup.copy_files("keras_view.py", "model.toml", "model.keras")
    command = [setup.bin("flask"), "--app", "keras_view", "run", "--port", str(setup.ports[0])]
    return Peer("keras", command, "/predict")


if __name__ == "__main__":
    compare(__doc__, prepare, ISIC)
