"""What turns a network's own probabilities into ones that mean what they say: the table `[calibration]`."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.manifest import bounds
from app.manifest.toml_table import Table


@dataclass(frozen=True)
class Calibration:
    """How probabilities are corrected, and how probable a class must be to count as possible.

    Attributes:
        temperature: the logarithms of the network's probabilities are divided by it.
        offsets: what is then added to each, a class; they correct for classes that the training drew more often.
        coverage: share of pictures whose true class is among the possible ones, class by class.
        possible_from: least corrected probability at which a class is possible, by class.
        data: the labelled pictures that all this was fitted on, in words.

    Sources: bias-corrected temperature scaling (Alexandari, Kundaje and Shrikumar 2020, arXiv:1901.06852); split
    conformal prediction, class by class (Vovk 2012, arXiv:1209.2673).
    """

    temperature: float
    offsets: tuple[float, ...]
    coverage: float
    possible_from: tuple[float, ...]
    data: str


def parse_calibration(table: Table, classes: Sequence[str]) -> Calibration:
    """Read `[calibration]`, all of whose keys are needed; raises `ManifestError`."""
    calibration = Calibration(
        temperature=table.number("temperature", bounds.TEMPERATURE),
        offsets=table.numbers("offsets", bounds.OFFSET, len(classes)),
        coverage=table.number("coverage", bounds.COVERAGE),
        possible_from=table.numbers("possible_from", bounds.SHARE, len(classes)),
        data=table.text("data"),
    )
    table.end()
    return calibration
