"""How much a benchmark measures: with `--quick` it takes seconds and shows only that it still runs."""

import argparse
import sys
from typing import TypeVar

IS_QUICK = "--quick" in sys.argv
T = TypeVar("T")


def choose(usual: T, quick: T) -> T:
    """Return `usual`, or `quick` if the command line asks for it."""
    return quick if IS_QUICK else usual


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser of a command line that has `--quick`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="take seconds, to see that it runs: no figure counts")
    return parser
