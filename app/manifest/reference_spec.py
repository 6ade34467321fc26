"""How scores and distances were spread over pictures such as a model is meant for: the table `[reference]`."""

from dataclasses import dataclass

from app.histograms import DISTANCE_EDGES, SCORE_EDGES
from app.manifest import bounds
from app.manifest.toml_table import Table


@dataclass(frozen=True)
class ReferenceSpec:
    """What the answers to later pictures are compared with.

    Attributes:
        data: the pictures, in words.
        network: what tells the network that answered them from others, `ModelManifest.network_digest` in hexadecimal.
        scores: pictures by score, one number a bin of `SCORE_EDGES`; all 0 for a model without a positive class.
        distances: pictures by distance, one number a bin of `DISTANCE_EDGES`; all 0 for a model without `[fit]`.
    """

    data: str
    network: str
    scores: tuple[int, ...]
    distances: tuple[int, ...]


def parse_reference(table: Table) -> ReferenceSpec:
    """Read `[reference]`, all of whose keys are needed; raises `ManifestError`."""
    spec = ReferenceSpec(
        data=table.text("data"),
        network=table.text("network"),
        scores=table.wholes("scores", bounds.COUNTED, len(SCORE_EDGES) + 1),
        distances=table.wholes("distances", bounds.COUNTED, len(DISTANCE_EDGES) + 1),
    )
    table.end()
    return spec
