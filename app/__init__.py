"""Scancer API: serves cancer-image classifiers over HTTP. Research use only, never a diagnosis."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from flask import Flask

    from app.api.request.observation import Observation
    from app.api.request.routing import RoutedFlask
    from app.api.request.services import Services
    from app.config.settings import Settings
    from app.tracing import Tracing

__version__ = "0.1.0"
Made = TypeVar("Made")


def create_app(settings: "Settings | None" = None) -> "Flask":
    """Put the parts together and load the models. All imports stand in functions, so that `import app` is free.

    `settings` are those of this process (`read_settings`) unless given. Raises `SettingsError` if one is not allowed;
    in a command of `flask`, `click.ClickException`.
    """
    import click

    from app import cli
    from app.api.request.routing import RoutedFlask
    from app.api.request.services import EXTENSION, make_services
    from app.logs import configure_logs

    settings = prepare_settings(settings)
    app, services = RoutedFlask(settings), make_services(settings)
    app.extensions[EXTENSION] = services
    cli.register_commands(app)

    # A command of ours serves nobody: adding a user must wait neither for the models nor for the views.
    command = click.get_current_context(silent=True)
    if command is not None and command.parent is None:
        return app
    observed = add_views(app, services)
    if command is not None and command.info_name == "run":
        configure_logs(settings.log_level, settings.log_format)
    if command is None or command.info_name == "run":
        observed.tracing = app.extensions["tracing"] = trace_requests()
        services.follower.start()
    return app


def add_views(app: "RoutedFlask", services: "Services") -> "Observation":
    """Have an app answer requests; return what sees each of them first."""
    from app.api.blueprints import register_blueprints
    from app.api.login import worker_storage  # noqa: F401  # `limits` fails if requests import it at once
    from app.api.login.authenticator import make_authenticator
    from app.api.request.error_handlers import register_error_handlers
    from app.api.request.observation import Observation
    from app.api.request.places import Admission
    from app.api.request.routing import Router, trust_proxies
    from app.web.pages import register_pages

    settings = services.settings
    authenticator = make_authenticator(settings, services.limits, services.followed)
    app.extensions["authenticator"] = authenticator
    register_error_handlers(app)
    register_blueprints(app, services.metrics)
    write_page = register_pages(app)
    app.router = Router(app.url_map, settings)
    admission = Admission(settings, services.registry)
    observed = Observation(app, admission, services.metrics, authenticator is None, write_page)
    app.wsgi_app = trust_proxies(observed, settings.trusted_proxies)  # type: ignore[method-assign, assignment]
    return observed


def prepare_settings(given: "Settings | None") -> "Settings":
    """Return the settings given, or those of this process, once no restore has anything left to do in their folders."""
    from app.config.settings import read_settings
    from app.upkeep.swap import finish_restore

    def prepare() -> "Settings":
        settings = given or read_settings()
        finish_restore(settings)
        return settings

    return tell_command(prepare)


def trace_requests() -> "Tracing | None":
    """Start to trace requests, if the environment says so."""
    from app.tracing import start_tracing

    return tell_command(partial(start_tracing, __version__))


def tell_command(make: Callable[[], Made]) -> Made:
    """Make something; a command of `flask` prints the reason of a `SettingsError` without a traceback."""
    import click

    from app.errors import SettingsError

    try:
        return make()
    except SettingsError as error:
        if click.get_current_context(silent=True) is None:
            raise
        raise click.ClickException(error.message) from None
