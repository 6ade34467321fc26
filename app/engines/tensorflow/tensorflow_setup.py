"""TensorFlow as every engine runs it; they import it from here, so that it is set up before it is imported."""

import os

# Set before the import: TensorFlow otherwise prints to the log, and rounds differently from one machine to the next.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf

__all__ = ["limit_threads", "tf"]


def limit_threads(threads: int) -> None:
    """Have TensorFlow use so many threads for one operation, and do one operation at a time."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        pass  # TensorFlow is running already, with the threads of whoever came first
