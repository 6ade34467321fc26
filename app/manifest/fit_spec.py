"""Which pictures a model was made for: the table `[fit]`."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.manifest import bounds
from app.manifest.toml_table import Table, TextRule

LOOKS = ("brightness", "contrast", "sharpness", "colour", "glare")
"""What is measured of a picture's pixels; see `app.pipeline.fit.measure_looks`."""


@dataclass(frozen=True)
class FitSpec:
    """What a picture must be like, so that a model's answer means something.

    Attributes:
        file, sha256: what the training pictures look like to the network, see `FeatureReference`.
        data: the pictures that all this was fitted on, in words.
        least_side_px: least length of a picture's shorter side.
        longest_shape: how many times longer than the network's a picture's one side may be, against the other.
        looks: the least and the greatest value of each of `LOOKS`.
    """

    file: str
    sha256: str
    data: str
    least_side_px: int
    longest_shape: float
    looks: Mapping[str, tuple[float, float]]


def parse_fit(table: Table, file_rule: TextRule, sha256_rule: TextRule) -> FitSpec:
    """Read `[fit]`, all of whose keys are needed; raises `ManifestError`."""
    looks = {}
    for name in LOOKS:
        low, high = table.numbers(name, bounds.LOOK, 2)
        if low > high:
            raise table.fail(name, "must be the least value and the greatest one")
        looks[name] = (low, high)
    spec = FitSpec(
        file=table.text("file", file_rule),
        sha256=table.text("sha256", sha256_rule),
        data=table.text("data"),
        least_side_px=table.whole("least_side_px", bounds.SIDE_PX),
        longest_shape=table.number("longest_shape", bounds.SHAPE),
        looks=looks,
    )
    table.end()
    return spec
