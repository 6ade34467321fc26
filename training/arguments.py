"""The command line of the recipes."""

import argparse
from pathlib import Path


def read_arguments(description: str | None) -> argparse.Namespace:
    """Read `--data`, `--work` and `--models`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="holds NAME/{train,val,test}/{0,1}/ and manifests")
    parser.add_argument(
        "--work", type=Path, default=Path("training/weights"), help="keeps trained weights between runs"
    )
    parser.add_argument("--models", type=Path, default=Path("models"), help="the model repository to write into")
    return parser.parse_args()
