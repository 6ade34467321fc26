"""Which pictures a model was made for: the table `[fit]`."""

import re
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
        file, sha256: what the training pictures look like to the network, see `pack_groups`.
        layers: groups of the network's layers that this was seen by, see `find_layers`.
        network_sha256: the network, see `ModelManifest.network_sha256`.
        data: the pictures that all this was fitted on, in words.
        least_side_px: least length of a picture's shorter side.
        longest_shape: how many times longer than the network's a picture's one side may be, against the other.
        looks: the least and the greatest value of each of `LOOKS`.
    """

    file: str
    sha256: str
    layers: tuple[tuple[int, ...], ...]
    network_sha256: str
    data: str
    least_side_px: int
    longest_shape: float
    looks: Mapping[str, tuple[float, float]]


FILE_RULE = TextRule(
    re.compile(r"fit[A-Za-z0-9-]{0,64}\.bin"),
    'a file name that begins with "fit" and ends in ".bin", as models fit writes',
)
SHA256_RULE = TextRule(re.compile(r"[0-9a-f]{64}"), "64 digits and letters from a to f, as models fit writes")


def parse_fit(table: Table) -> FitSpec:
    """Read `[fit]`, all of whose keys are needed; raises `ManifestError`."""
    looks = {}
    for name in LOOKS:
        low, high = table.numbers(name, bounds.LOOK, 2)
        if low > high:
            raise table.fail(name, "must be the least value and the greatest one")
        looks[name] = (low, high)
    spec = FitSpec(
        file=table.text("file", FILE_RULE),
        sha256=table.text("sha256", SHA256_RULE),
        layers=table.groups("layers", bounds.LAYER),
        network_sha256=table.text("network_sha256", SHA256_RULE),
        data=table.text("data"),
        least_side_px=table.whole("least_side_px", bounds.SIDE_PX),
        longest_shape=table.number("longest_shape", bounds.SHAPE),
        looks=looks,
    )
    table.end()
    return spec
