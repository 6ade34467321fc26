"""From a request to its route: matched in one place, which admission and Flask both ask."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import Flask, Request, Response, request
from flask.ctx import RequestContext
from werkzeug.datastructures import ImmutableDict
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import Map, MapAdapter, Rule

from app.config.settings import Settings
from app.routes import ROUTES_BY_NAME, Route, Surface

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

MAX_REMEMBERED = 1024
"""Paths whose match is remembered; each is a text of a caller, of 4 KiB at most."""


class Match(NamedTuple):
    """Where a request goes: its row of the table, Flask's rule for the same, and the path's variable parts by name."""

    route: Route
    rule: Rule
    values: dict[str, Any]


class Router:
    """Finds routes, among those that are served on the port by which the request came.

    One server listens on all addresses. A port that is none of theirs (a test, the development server, a Unix socket)
    serves every route. `url_map` must be complete.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, url_map: Map, settings: Settings) -> None:
        addresses = (
            (Surface.INFERENCE, settings.inference_address),
            (Surface.MANAGEMENT, settings.management_address),
            (Surface.METRICS, settings.metrics_address),
        )
        served: dict[str, set[Surface]] = {}
        for surface, address in addresses:
            served.setdefault(str(address.port), set()).add(surface)
        # Made here, by one thread: Python 3.11 may fail to compile a rule while another thread compiles one.
        self._adapters = {port: bind_rules(url_map, surfaces) for port, surfaces in served.items()}
        self._elsewhere = bind_rules(url_map, set(Surface))
        self._match = lru_cache(maxsize=MAX_REMEMBERED)(self._match_path)

    def match(self, environ: dict[str, Any]) -> Match:
        """Find the route of a request. Raises `NotFound` or `MethodNotAllowed` if this port has none."""
        return self._match(environ.get("SERVER_PORT", ""), environ["REQUEST_METHOD"], environ["PATH_INFO"])

    def is_streamed(self, environ: dict[str, Any]) -> bool:
        """Whether the view reads the body as it comes: a model's, not the parameters of a registration in JSON."""
        try:
            route = self.match(environ).route
        except HTTPException:
            return False
        kind = str(environ.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower()
        return route.is_streamed and kind != "application/json"

    def _match_path(self, port: str, method: str, path: str) -> Match:
        text = path.encode("latin-1").decode(errors="replace")  # WSGI's way with bytes, PEP 3333
        adapter = self._adapters.get(port, self._elsewhere)
        rule, values = adapter.match(text, method, return_rule=True)
        return Match(ROUTES_BY_NAME[rule.rule, method], rule, dict(values))


def bind_rules(url_map: Map, served: set[Surface]) -> MapAdapter:
    """Return what finds the rules of these surfaces, all compiled."""
    rules = [
        rule.empty()
        for rule in url_map.iter_rules()
        if ROUTES_BY_NAME[rule.rule, min(rule.methods or ())].surfaces & served
    ]
    return Map(rules, strict_slashes=False, merge_slashes=False).bind("localhost")


def asks_management(settings: Settings) -> bool:
    """Whether the current request came in at the management address."""
    return request.environ.get("SERVER_PORT") == str(settings.management_address.port)


def trust_proxies(app: "WSGIApplication", count: int) -> "WSGIApplication":
    """Return an app that takes a request's scheme, host, prefix and caller from what so many proxies say of them.

    The port stays that of the connection. It says what is served, and the proxies' headers may come from a caller.
    """
    if not count:
        return app

    def keep_port(environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        environ["SERVER_PORT"] = environ["werkzeug.proxy_fix.orig"]["SERVER_PORT"]
        return app(environ, start_response)

    return ProxyFix(keep_port, x_for=count, x_proto=count, x_host=count, x_prefix=count)


class PlainResponse(Response):
    """An answer that goes out as it is, where Flask would copy its headers and wrap its body first."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer; what is made while it is sent, redirects, or has no length yet takes Flask's way."""
        is_plain = self.is_sequence and self.status_code // 100 != 3 and "Content-Length" in self.headers
        if not is_plain or self._on_close or environ["REQUEST_METHOD"] == "HEAD":
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        return self.iter_encoded()


class RoutedFlask(Flask):
    """Flask without its routes, that asks the router, and leaves out what no view here needs."""

    default_config = ImmutableDict({**Flask.default_config, "PROVIDE_AUTOMATIC_OPTIONS": False})
    """Flask's own, but here already: the files of the page get their route before an app can be configured."""
    response_class = PlainResponse
    router: Router

    def __init__(self, settings: Settings) -> None:
        super().__init__("app", static_folder="web/static", template_folder="web/templates")
        self.json.sort_keys = False  # type: ignore[attr-defined]  # of Flask's default provider
        self.url_map.strict_slashes = False
        self.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function: Flask would look several times a request whether it is a coroutine."""
        return func

    def request_context(self, environ: dict[str, Any]) -> RequestContext:
        """Make the context of one request."""
        return RoutedContext(self, environ)

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what makes links. They name no host, so all requests share one."""
        return None if request is None else bind_links(self.url_map, request.environ.get("SCRIPT_NAME", ""))


@lru_cache(maxsize=16)
def bind_links(url_map: Map, script_name: str) -> MapAdapter:
    """Return what makes links below a prefix."""
    return url_map.bind("localhost", script_name)


class RoutedContext(RequestContext):
    """A request's context, whose route the router has found."""

    app: RoutedFlask

    def match_request(self) -> None:
        """Note the route, or the error that there is none."""
        try:
            _, self.request.url_rule, self.request.view_args = self.app.router.match(self.request.environ)
        except HTTPException as error:
            self.request.routing_exception = error
