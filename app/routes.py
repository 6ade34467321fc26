"""The one table of routes: where each is served, what it costs, and whether its body is read as it comes.

A new route needs a view in `api/`, a row here, its description in `api/openapi.json` and a request in the Postman
collection of `get_started/`. The tests tell which of them is missing.
"""

from enum import Enum, auto
from typing import NamedTuple


class Surface(Enum):
    """A part of the API with an address of its own."""

    INFERENCE = auto()
    MANAGEMENT = auto()
    METRICS = auto()


class Cost(Enum):
    """What a request of a route keeps busy, and so which places it is counted in."""

    NOTHING = auto()
    INFERENCE = auto()
    EXPLANATION = auto()
    CHANGE = auto()
    """A change of the models, which may wait for a download, a compilation or the other workers."""


class Route(NamedTuple):
    """One row of the table; `rule` is the path as Flask writes it."""

    rule: str
    methods: tuple[str, ...]
    surfaces: frozenset[Surface]
    cost: Cost = Cost.NOTHING
    is_streamed: bool = False
    """Whether the view reads a body as it comes, unless it is JSON: models are too large for memory."""

    @property
    def predicts(self) -> bool:
        """Whether a request asks a model for something."""
        return self.cost in (Cost.INFERENCE, Cost.EXPLANATION)


GET, POST, PUT, OPTIONS = ("GET", "HEAD"), ("POST",), ("PUT",), ("OPTIONS",)
POST_PUT, PUT_DELETE = (*POST, *PUT), (*PUT, "DELETE")
ASKED, MANAGED, SCRAPED = (frozenset((surface,)) for surface in Surface)
BOTH, ALL = ASKED | MANAGED, ASKED | MANAGED | SCRAPED

ROUTES = (
    Route("/predictions/<model_name>", POST_PUT, ASKED, Cost.INFERENCE),
    Route("/predictions/<model_name>/<version>", POST_PUT, ASKED, Cost.INFERENCE),
    Route("/predictions/<model_name>/<version>/<path:url_path>", POST_PUT, ASKED, Cost.INFERENCE),
    Route("/models/<model_name>/invoke", POST, ASKED, Cost.INFERENCE),
    Route("/<model_name>/predict", POST_PUT, ASKED, Cost.INFERENCE),
    Route("/<model_name>/<version>/predict", POST_PUT, ASKED, Cost.INFERENCE),
    Route("/invocations", POST, ASKED, Cost.INFERENCE),
    Route("/models/<model_name>", POST, ASKED, Cost.INFERENCE),
    Route("/models/<model_name>/<version>", POST, ASKED, Cost.INFERENCE),
    Route("/v1/models/<model_name>:predict", POST, ASKED, Cost.INFERENCE),
    Route("/v1/models/<model_name>/versions/<version>:predict", POST, ASKED, Cost.INFERENCE),
    Route("/v2/models/<model_name>/infer", POST, ASKED, Cost.INFERENCE),
    Route("/v2/models/<model_name>/versions/<version>/infer", POST, ASKED, Cost.INFERENCE),
    Route("/explanations/<model_name>", POST_PUT, ASKED, Cost.EXPLANATION),
    Route("/explanations/<model_name>/<version>", POST_PUT, ASKED, Cost.EXPLANATION),
    Route("/v1/models/<model_name>:explain", POST, ASKED, Cost.EXPLANATION),
    Route("/v2/models/<model_name>/explain", POST, ASKED, Cost.EXPLANATION),
    Route("/outcomes/<request_id>", POST, ASKED, Cost.CHANGE),
    Route("/models", POST, MANAGED, Cost.CHANGE, is_streamed=True),
    Route("/models/<model_name>", PUT_DELETE, MANAGED, Cost.CHANGE),
    Route("/models/<model_name>/<version>", PUT_DELETE, MANAGED, Cost.CHANGE),
    Route("/models/<model_name>/<version>/set-default", PUT, MANAGED, Cost.CHANGE),
    Route("/v2/repository/models/<model_name>/load", POST, BOTH, Cost.CHANGE),
    Route("/v2/repository/models/<model_name>/unload", POST, BOTH, Cost.CHANGE),
    Route("/predictions/<model_name>", OPTIONS, ASKED),
    Route("/models/<model_name>", OPTIONS, MANAGED),
    Route("/", GET, BOTH),
    Route("/", OPTIONS, ALL),
    Route("/api-description", GET, BOTH),
    Route("/docs", GET, ASKED),
    Route("/guides", GET, ASKED),
    Route("/guides/<file>", GET, ASKED),
    Route("/static/<path:filename>", GET, ALL),
    Route("/models", GET, BOTH),
    Route("/models/<model_name>", GET, BOTH),
    Route("/models/<model_name>/<version>", GET, BOTH),
    Route("/models/<model_name>/drift", GET, BOTH),
    Route("/models/<model_name>/<version>/drift", GET, BOTH),
    Route("/models/<model_name>/examples/<file>", GET, BOTH),
    Route("/models/<model_name>/<version>/examples/<file>", GET, BOTH),
    Route("/v1/models/<model_name>", GET, BOTH),
    Route("/v2", GET, BOTH),
    Route("/v2/health/live", GET, BOTH),
    Route("/v2/health/ready", GET, BOTH),
    Route("/v2/models/stats", GET, BOTH),
    Route("/v2/models/<model_name>", GET, BOTH),
    Route("/v2/models/<model_name>/ready", GET, BOTH),
    Route("/v2/models/<model_name>/config", GET, BOTH),
    Route("/v2/models/<model_name>/stats", GET, BOTH),
    Route("/v2/models/<model_name>/versions/<version>", GET, BOTH),
    Route("/v2/models/<model_name>/versions/<version>/ready", GET, BOTH),
    Route("/v2/models/<model_name>/versions/<version>/config", GET, BOTH),
    Route("/v2/models/<model_name>/versions/<version>/stats", GET, BOTH),
    Route("/v2/repository/index", POST, BOTH),
    Route("/ping", GET, ALL),
    Route("/health/live", GET, ALL),
    Route("/health/ready", GET, ALL),
    Route("/metrics", GET, SCRAPED),
)
ROUTES_BY_NAME = {(route.rule, method): route for route in ROUTES for method in route.methods}
CHANGE_PLACES = 16
QUICK_THREADS = 8
"""Threads that no counted request takes: health, metrics and pages answer under any load."""


def count_places(threads: int) -> dict[Cost, int]:
    """Return how many requests of each cost may be in work or wait in a worker that has `threads` by its settings."""
    return {Cost.INFERENCE: threads, Cost.EXPLANATION: max(1, threads // 4), Cost.CHANGE: CHANGE_PLACES}


def count_threads(threads: int) -> int:
    """Return how many threads a worker may have: one a place, and those that no counted request takes."""
    return sum(count_places(threads).values()) + QUICK_THREADS


def is_costly(rule: str, method: str) -> bool:
    """Whether requests of a route and method ask or change a model."""
    route = ROUTES_BY_NAME.get((rule, method))
    return route is not None and route.cost is not Cost.NOTHING


def is_prediction(rule: str, method: str) -> bool:
    """Whether requests of a route and method ask a model for something."""
    route = ROUTES_BY_NAME.get((rule, method))
    return route is not None and route.predicts
