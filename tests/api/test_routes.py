"""The one table of routes, the router that reads it, and who is let in."""

import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import Rule
from werkzeug.test import EnvironBuilder

from app.api.request.bodies import SMALL_BODY_BYTES
from app.api.request.places import MAX_BODIES, RESERVED_PART, Admission, Place
from app.api.request.routing import RoutedFlask, Router
from app.api.request.services import FACTS, RequestFacts, begin_facts
from app.config.settings import Settings
from app.errors import BadRequestError, ModelNotFoundError, ServiceUnavailableError
from app.registry.serving_table import ServingTable
from app.routes import (
    CHANGE_PLACES,
    QUICK_THREADS,
    ROUTES,
    ROUTES_BY_NAME,
    Cost,
    Route,
    Surface,
    count_threads,
    is_prediction,
)
from tests.conftest import MANAGER, MANAGER_PASSWORD, basic

PCAM = "pcam-classification"
SPELLINGS = [
    "/predictions/{}",
    "/predictions/{}/",
    "/predictions/{}/1.0",
    "/predictions/{}/1.0/more/of/it",
    "//predictions/{}",
    "////predictions/{}",
    "/models/{}/invoke",
    "/{}/predict",
    "/{}/1.0/predict",
    "//{}/predict",
    "/v1/models/{}:predict",
    "//v1/models/{}:predict",
    "/v2/models/{}/infer",
    "/v2/models/{}/infer/",
    "/v2/models/{}/versions/1.0/infer",
    "/v1/models/{}/versions/1.0:predict",
]
UNSERVED = [
    "/predictions//{}",
    "/predictions/./{}",
    "/predictions/../predictions/{}",
    "/Predictions/{}",
    "/predictions/{}\n",
    "/predictions;x/{}",
    "/v1//models/{}:predict",
    "/v2/models//{}/infer",
    "/v1/models/:predict",
    "/predictions/",
    "/predictions",
]


@pytest.fixture(scope="module")
def router(app: Flask) -> Router:
    assert isinstance(app, RoutedFlask)
    return app.router


@pytest.fixture(scope="module")
def registry(app: Flask) -> ServingTable:
    registry: ServingTable = app.extensions["scancer"].registry
    return registry


def ask(path: str, method: str = "POST", port: int = 80, **more: str) -> dict[str, Any]:
    return {"REQUEST_METHOD": method, "PATH_INFO": path, "SERVER_PORT": str(port), **more}


def enter(admission: Admission, router: Router, environ: dict[str, Any]) -> Place | None:
    return admission.enter(router.match(environ), environ, begin_facts(environ))


def test_table_and_views_name_the_same_routes(app: Flask) -> None:
    served = {(rule.rule, method) for rule in app.url_map.iter_rules() for method in rule.methods or ()}
    assert served == set(ROUTES_BY_NAME)
    assert len(ROUTES_BY_NAME) == sum(len(route.methods) for route in ROUTES)


def test_every_method_of_a_view_has_one_row(app: Flask) -> None:
    for rule in app.url_map.iter_rules():
        rows = {ROUTES_BY_NAME[rule.rule, method] for method in rule.methods or ()}
        assert len(rows) == 1, rule.rule


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_that_is_served_takes_a_place_of_its_model(
    spelling: str, router: Router, registry: ServingTable, settings: Settings
) -> None:
    admission = Admission(settings, registry)
    environ = ask(spelling.format(PCAM))
    place = enter(admission, router, environ)
    assert place is not None
    assert place.key == (PCAM, "1.0", Cost.INFERENCE)
    admission.leave(place)


@pytest.mark.parametrize("spelling", UNSERVED)
def test_other_spellings_are_served_by_nobody(spelling: str, client: FlaskClient, pcam_example: bytes) -> None:
    environ = {"PATH_INFO": spelling.format(PCAM)}
    answer = client.post("/", environ_overrides=environ, headers=basic(), data=pcam_example)
    assert answer.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_takes_a_place_is_what_is_served(spelling: str, app: Flask, pcam_example: bytes) -> None:
    environ = EnvironBuilder(method="POST", headers=basic(), data=pcam_example).get_environ()
    environ["PATH_INFO"] = spelling.format(PCAM)
    list(app(environ, lambda *_: lambda _: None))
    known: RequestFacts = environ[FACTS]
    assert known.status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST)  # KServe's takes JSON
    assert known.find_lent().key == (PCAM, "1.0")


@pytest.mark.parametrize(
    "path",
    ["/explanations/{}", "/explanations/{}/1.0", "//explanations/{}", "/v1/models/{}:explain", "/v2/models/{}/explain"],
)
def test_explanations_take_places_of_their_own(
    path: str, router: Router, registry: ServingTable, settings: Settings
) -> None:
    place = enter(Admission(settings, registry), router, ask(path.format(PCAM)))
    assert place is not None
    assert place.key == (PCAM, "1.0", Cost.EXPLANATION)


def test_only_model_is_asked_by_invocations_or_the_one_of_the_query(
    router: Router, registry: ServingTable, settings: Settings
) -> None:
    admission = Admission(settings, registry)
    environ = ask("/invocations", QUERY_STRING=f"model_name={PCAM}")
    place = enter(admission, router, environ)
    assert place is not None
    assert place.key[0] == PCAM
    environ = ask("/invocations", QUERY_STRING="")  # two models are there
    known = begin_facts(environ)
    assert admission.enter(router.match(environ), environ, known) is None
    with pytest.raises(BadRequestError):
        known.find_lent()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health/live"),
        ("GET", "/ping"),
        ("GET", "/metrics"),
        ("GET", f"/models/{PCAM}"),
        ("OPTIONS", f"/predictions/{PCAM}"),
        ("GET", f"/v2/models/{PCAM}/ready"),
        ("POST", "/v2/repository/index"),
    ],
)
def test_what_is_quick_takes_no_place(
    method: str, path: str, router: Router, registry: ServingTable, settings: Settings
) -> None:
    assert enter(Admission(settings, registry), router, ask(path, method)) is None


def test_unknown_model_takes_no_place_and_the_view_says_so(
    router: Router, registry: ServingTable, settings: Settings
) -> None:
    environ = ask("/predictions/nope")
    known = begin_facts(environ)
    assert Admission(settings, registry).enter(router.match(environ), environ, known) is None
    with pytest.raises(ModelNotFoundError):
        known.find_lent()


@pytest.fixture
def full(registry: ServingTable, router: Router, settings: Settings) -> Iterator[tuple[Admission, list[Place]]]:
    """An admission whose places for one model are all taken."""
    admission, places = Admission(settings, registry), []
    for _ in range(registry.get_served(PCAM).places):
        place = enter(admission, router, ask(f"/predictions/{PCAM}"))
        assert place is not None
        places.append(place)
    yield admission, places
    for place in places:
        admission.leave(place)


def test_model_has_a_full_batch_and_its_queue_and_not_one_place_more(
    full: tuple[Admission, list[Place]], router: Router, settings: Settings
) -> None:
    admission, places = full
    assert len(places) == settings.queue_size + 8
    for path in (f"/predictions/{PCAM}/1.0", f"//predictions/{PCAM}", f"/v2/models/{PCAM}/infer"):
        with pytest.raises(ServiceUnavailableError, match="this model"):
            enter(admission, router, ask(path))
    assert enter(admission, router, ask("/predictions/isic-classification")) is not None
    assert enter(admission, router, ask(f"/explanations/{PCAM}")) is not None
    admission.leave(places.pop())
    place = enter(admission, router, ask(f"/predictions/{PCAM}"))
    assert place is not None
    places.append(place)


def test_all_models_together_have_as_many_places_as_threads_are_allowed(router: Router, registry: ServingTable) -> None:
    admission = Admission(Settings(threads=2), registry)
    paths = ["/predictions/isic-classification", f"/predictions/{PCAM}"]
    assert all(enter(admission, router, ask(path)) for path in paths)
    with pytest.raises(ServiceUnavailableError, match=r"^Too many requests wait; try"):
        enter(admission, router, ask(paths[0]))
    assert enter(admission, router, ask(f"/explanations/{PCAM}")) is not None
    with pytest.raises(ServiceUnavailableError):
        enter(admission, router, ask("/explanations/isic-classification"))


def test_changes_of_the_models_leave_threads_to_health(router: Router, registry: ServingTable) -> None:
    settings = Settings(threads=8)
    admission = Admission(settings, registry)
    admitted = 0
    for cost, environ in (
        (Cost.INFERENCE, ask(f"/predictions/{PCAM}")),
        (Cost.EXPLANATION, ask(f"/explanations/{PCAM}")),
        (Cost.CHANGE, ask("/models")),
    ):
        try:
            while place := enter(admission, router, dict(environ)):
                assert place.cost is cost
                admitted += 1
        except ServiceUnavailableError:
            continue
    assert admitted == 8 + 2 + CHANGE_PLACES
    assert count_threads(settings.threads) - admitted == QUICK_THREADS


def test_bodies_in_work_are_bounded_by_their_bytes(router: Router, registry: ServingTable) -> None:
    settings = Settings()
    admission = Admission(settings, registry)
    paths = ["/predictions/isic-classification", f"/predictions/{PCAM}"]
    large = {"CONTENT_LENGTH": str(settings.max_body_bytes)}
    for number in range(MAX_BODIES - 1):
        assert enter(admission, router, ask(paths[number % 2], **large)) is not None
    left = settings.max_body_bytes - settings.max_body_bytes // RESERVED_PART
    assert enter(admission, router, ask(paths[0], CONTENT_LENGTH=str(left))) is not None
    with pytest.raises(ServiceUnavailableError):
        enter(admission, router, ask(paths[0], CONTENT_LENGTH=str(SMALL_BODY_BYTES + 1)))
    small = {"CONTENT_LENGTH": str(SMALL_BODY_BYTES)}
    count = (settings.max_body_bytes - left) // SMALL_BODY_BYTES
    places = [enter(admission, router, ask(paths[number % 2], **small)) for number in range(count)]
    with pytest.raises(ServiceUnavailableError):
        enter(admission, router, ask(paths[0], **small))
    assert enter(admission, router, ask(paths[0])) is not None
    assert places[0] is not None
    admission.leave(places[0])
    assert enter(admission, router, ask(paths[0], **small)) is not None


def test_body_that_came_compressed_is_counted_as_it_is(router: Router, registry: ServingTable) -> None:
    settings = Settings()
    admission = Admission(settings, registry)
    places = [enter(admission, router, ask(f"/v2/models/{PCAM}/infer", CONTENT_LENGTH="8000")) for _ in range(20)]
    held = [place for place in places if place is not None]
    for place in held[: MAX_BODIES - 1]:
        admission.hold(place, settings.max_body_bytes)
    with pytest.raises(ServiceUnavailableError):
        admission.hold(held[MAX_BODIES], settings.max_body_bytes)
    for place in held:
        admission.leave(place)
    assert admission._free_bytes == MAX_BODIES * settings.max_body_bytes


def test_places_are_right_after_many_threads_came_and_went(
    router: Router, registry: ServingTable, settings: Settings
) -> None:
    admission = Admission(settings, registry)

    def come_and_go() -> None:
        for _ in range(500):
            place = enter(admission, router, ask(f"/predictions/{PCAM}"))
            assert place is not None
            admission.leave(place)

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admission._taken == {}
    assert admission._free[Cost.INFERENCE] == settings.threads


def test_each_port_serves_its_own_surface(app: Flask, settings: Settings) -> None:
    router = Router(app.url_map, settings)
    ports = {
        Surface.INFERENCE: settings.inference_address.port,
        Surface.MANAGEMENT: settings.management_address.port,
        Surface.METRICS: settings.metrics_address.port,
    }
    for route in ROUTES:
        path = route.rule.replace("<path:", "<").replace("<", "").replace(">", "")
        for surface, port in ports.items():
            try:
                found = router.match(ask(path, route.methods[0], port)).route
            except (NotFound, MethodNotAllowed):
                found = None
            assert (found == route) == (surface in route.surfaces), (route, surface)


def test_request_compiles_no_rule(app: Flask, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that did so at once broke each other's first request, in Python 3.11."""
    router = Router(app.url_map, settings)
    monkeypatch.setattr(Rule, "compile", lambda _: pytest.fail("a rule is compiled"))
    for port in (settings.inference_address.port, settings.metrics_address.port, 1):
        assert router.match(ask("/health/ready", "GET", port)).route.rule == "/health/ready"


def test_path_of_another_ports_method_answers_405_with_those_of_this_port(app: Flask, settings: Settings) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        Router(app.url_map, settings).match(ask("/models/a", "DELETE", settings.inference_address.port))
    assert set(caught.value.valid_methods or ()) == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (ask("/models", port=8081), True),
        (ask("/models/", port=8081), True),
        (ask("//models", port=8081), True),
        (ask("/models", port=8081, CONTENT_TYPE="image/png"), True),
        (ask("/models", port=8081, CONTENT_TYPE="application/json; charset=utf-8"), False),
        (ask("/models", port=8080), False),
        (ask("/models", "PUT", 8081), False),
        (ask("/models/a", port=8081), False),
        (ask("/v2/repository/index", port=8081), False),
    ],
)
def test_only_a_model_that_is_registered_is_read_as_it_comes(
    app: Flask, settings: Settings, environ: dict[str, Any], expected: bool
) -> None:
    assert Router(app.url_map, settings).is_streamed(environ) is expected


def test_every_way_to_ask_a_model_counts_as_a_prediction() -> None:
    assert is_prediction("/explanations/<model_name>", "PUT")
    assert is_prediction("/v1/models/<model_name>:predict", "POST")
    assert not is_prediction("/predictions/<model_name>", "OPTIONS")
    assert not is_prediction("/models", "POST")
    assert not is_prediction("unmatched", "POST")


@pytest.mark.parametrize("route", [each for each in ROUTES if each.cost is Cost.CHANGE], ids=lambda each: each.rule)
def test_no_change_is_taken_from_a_page_of_another_site(client: FlaskClient, settings: Settings, route: Route) -> None:
    path = route.rule.replace("<model_name>", "absent-model").replace("<version>", "1.0")
    is_managed = Surface.MANAGEMENT in route.surfaces
    address = settings.management_address if is_managed else settings.inference_address
    port = {"SERVER_PORT": str(address.port)}
    for method in route.methods:
        headers = basic(MANAGER, MANAGER_PASSWORD) | {"Sec-Fetch-Site": "cross-site"}
        answer = client.open(path, method=method, headers=headers, environ_overrides=port)
        assert answer.status_code == 403
        assert "Changes are not taken from pages of other sites." in answer.text
