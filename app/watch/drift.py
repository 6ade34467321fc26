"""Whether other pictures come to a model than it is meant for, by how its scores and distances are spread."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from app.errors import EvaluationError, StateStoreError
from app.evaluation.version_evaluation import Answer
from app.histograms import DISTANCE_EDGES, SCORE_EDGES, count_bins, measure_shift, undo_sums
from app.manifest.model_manifest import ModelManifest
from app.manifest.reference_spec import ReferenceSpec
from app.metrics import DISTANCES, SCORES, Labels, Totals, read_beginning
from app.state.worker_reports import read_reports

DIGITS = 4


def make_reference(answers: Iterable[Answer], manifest: ModelManifest, data: str) -> ReferenceSpec:
    """Count scores and distances as a server counts them: refused pictures have a distance alone.

    Raises `EvaluationError` for a model that gives neither.
    """
    scores, distances, positive_class = [], [], manifest.output.positive_class
    for answer in answers:
        fit = answer.fit
        if fit is not None and fit.distance is not None:
            distances.append(fit.distance)
        if positive_class is not None and (fit is None or fit.fits):
            scores.append(answer.decision.probabilities[positive_class])
    if not scores and not distances:
        raise EvaluationError("there is nothing to compare: the model has no positive class and no [fit]")
    counts = count_bins(scores, SCORE_EDGES), count_bins(distances, DISTANCE_EDGES)
    return ReferenceSpec(data, manifest.network_digest.hex(), *counts)


def describe_drift(manifest: ModelManifest, families: Iterable[Metric], since: float) -> dict[str, Any]:
    """Compare what a server has counted with the reference of the model folder.

    Args:
        manifest: of the version.
        families: the server's metrics, see `Metrics.collect`.
        since: when it began to count, seconds since 1970.

    Returns:
        The document of `GET /models/<name>/drift`; `reference` is None for a folder that has none of this network.
    """
    totals, reference = Totals(families), manifest.reference
    if reference is not None and reference.network != manifest.network_digest.hex():
        reference = None  # it tells how another network answered
    told: dict[str, Any] = {
        "model": manifest.name,
        "version": manifest.version,
        "since": describe_time(since),
        "reference": None if reference is None else reference.data,
    }
    for name, sample, edges in (("score", SCORES, SCORE_EDGES), ("distance", DISTANCES, DISTANCE_EDGES)):
        counts = read_counts(totals, f"{sample}_bucket", edges, (manifest.name, manifest.version))
        before = None if reference is None else getattr(reference, f"{name}s")
        told[name] = compare(before, counts) | {"edges": list(edges)}
    return told


def describe_time(seconds: float) -> str:
    """Return a time since 1970 as ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def compare(before: Sequence[int] | None, now: Sequence[int]) -> dict[str, Any]:
    """Describe the shift from a reference to what was counted; without pictures on both sides there is none."""
    told: dict[str, Any] = {"n": sum(now), "counts": list(now)}
    if before is None or not sum(before):
        return {"psi": None, "psi_by_chance": None, "changed": None, **told}
    told |= {"reference_n": sum(before), "reference_counts": list(before)}
    if not sum(now):
        return {"psi": None, "psi_by_chance": None, "changed": None, **told}
    shift = measure_shift(before, now)
    figures = {"psi": round(shift.index, DIGITS), "psi_by_chance": round(shift.by_chance, DIGITS)}
    return {**figures, "changed": shift.is_changed, **told}


def read_counts(totals: Totals, sample: str, edges: Sequence[float], key: tuple[str, str]) -> tuple[int, ...]:
    """Read the counts of a version's histogram, one a bin; zeros where nothing was counted."""
    find_edge: Callable[[Labels], float | None] = lambda labels: (  # noqa: E731  # no name would say more
        float(labels["le"]) if (labels["model"], labels["version"]) == key else None
    )
    sums = totals.sum_by(sample, find_edge)
    return undo_sums([sums.get(edge, 0.0) for edge in (*edges, float("inf"))])


def collect_from_server(instance: Path) -> tuple[list[Metric], float]:
    """Read the metrics of the server that runs with this instance folder, and when it began to count.

    Raises `StateStoreError` if none runs.
    """
    folders = {report.metrics for report in read_reports(instance) if report.metrics}
    for folder in sorted(folders):
        if Path(folder).is_dir():
            every = CollectorRegistry()
            MultiProcessCollector(every, folder)  # type: ignore[no-untyped-call]  # it has no annotations
            return list(every.collect()), read_beginning(folder)
    raise StateStoreError("no server runs here: what comes in is counted by a server, from its start on")
