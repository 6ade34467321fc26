"""Who is let in: each request that keeps something busy takes a place first, or is refused at once."""

import math
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from app.api.request.bodies import SMALL_BODY_BYTES
from app.api.request.routing import Match
from app.api.request.services import RequestFacts, read_length
from app.config.settings import Settings
from app.errors import AnsweredError, BadRequestError, ServiceUnavailableError
from app.handlers.client.handler_model import describe_lack_of_workers
from app.registry.model_entry import ModelEntry
from app.registry.serving_table import ServingTable
from app.routes import Cost, count_places

MAX_BODIES = 4
"""Bodies of the largest size that requests in work or in line may hold together, in a worker: 128 MiB by default. Twice
as many may be on their way (`HELD_BODIES`); both leave a worker room for the largest picture under 1 GB.
"""
RESERVED_PART = 4
"""Large bodies leave that part of the largest one's size to smaller ones."""
FULL = "Too many requests wait; try again shortly."


@dataclass(slots=True, eq=False)
class Place:
    """What an admitted request has taken; places are counted by `key`, and the model of `entry` is lent, if any."""

    cost: Cost
    key: tuple[object, ...]
    entry: ModelEntry | None
    body_bytes: int = 0


class Admission:
    """Counts requests in work or in line: of each version of a model, of each cost, and the bytes of their bodies.

    A version has the places that its queue and its batch need, so a batch can be full while the next one gathers. All
    models together have `SCANCER_THREADS`, since each place takes a thread. Explanations and changes of the models have
    places of their own. Health, metrics and pages take none.

    The model of an admitted prediction is looked up here, once, and lent until the place is given back.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, settings: Settings, registry: ServingTable) -> None:
        self._registry, self._max_body_bytes = registry, settings.max_body_bytes
        self._free = dict(count_places(settings.threads))
        self._free_bytes = MAX_BODIES * settings.max_body_bytes
        self._taken: dict[tuple[object, ...], int] = {}
        self._lock = threading.Lock()

    def enter(self, match: Match, environ: dict[str, Any], known: RequestFacts) -> Place | None:
        """Take a place for a request that needs one, and lend its model; raises `ServiceUnavailableError` if there is
        no room.
        """
        cost = match.route.cost
        if cost is Cost.NOTHING:
            return None
        if not match.route.predicts:
            return self._take(Place(cost, (cost,), None), 0, math.inf, FULL)
        body_bytes = min(read_length(environ) or 0, self._max_body_bytes)
        try:
            known.lent = entry = self._borrow(match, environ, known)
        except AnsweredError as error:  # for the view, once it knows who asks
            known.lent = error
            return None
        if entry.holds is None:
            return None
        in_words = "Too many requests wait for this model; try again shortly."
        if entry.handler is not None:
            in_words = describe_lack_of_workers(entry.wanted.name, match.values.get("version"))
        try:
            return self._take(Place(cost, (*entry.key, cost), entry), body_bytes, entry.holds.places, in_words)
        except ServiceUnavailableError:
            entry.holds.leave()
            raise

    def hold(self, place: Place, body_bytes: int) -> None:
        """Count the body of an admitted request anew, as it came compressed; raises as `enter`."""
        with self._lock:
            self._hold(place, body_bytes)

    def leave(self, place: Place) -> None:
        """Give a place back, and the model."""
        with self._lock:
            self._free[place.cost] += 1
            self._free_bytes += place.body_bytes
            self._taken[place.key] -= 1
            if not self._taken[place.key]:
                del self._taken[place.key]
        if place.entry is not None and place.entry.holds is not None:
            place.entry.holds.leave()

    def _take(self, place: Place, body_bytes: int, most: float, in_words: str) -> Place:
        with self._lock:
            taken = self._taken.get(place.key, 0)
            if taken >= most:
                raise ServiceUnavailableError(in_words)
            if not self._free[place.cost]:
                raise ServiceUnavailableError(FULL)
            self._hold(place, body_bytes)
            self._free[place.cost] -= 1
            self._taken[place.key] = taken + 1
        return place

    def _hold(self, place: Place, body_bytes: int) -> None:
        """Count the bytes of a body; called with the lock held."""
        more = body_bytes - place.body_bytes
        reserve = self._max_body_bytes // RESERVED_PART if body_bytes > SMALL_BODY_BYTES else 0
        if more > self._free_bytes - reserve:
            raise ServiceUnavailableError(FULL)
        self._free_bytes -= more
        place.body_bytes = body_bytes

    def _borrow(self, match: Match, environ: dict[str, Any], known: RequestFacts) -> ModelEntry:
        """Look up the model that a request names; `/invocations` names it in the query, or means the only one."""
        name = match.values.get("model_name")
        if name is None:
            query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
            names = query.get("model_name") or sorted({entry.folder.name for entry in self._registry.entries()})
            if "model_name" not in query and len(names) != 1:
                raise BadRequestError("Parameter model_name is required.")
            name = names[0]
        known.named = name
        return self._registry.borrow(name, match.values.get("version"))
