"""Scancer API: serves cancer-image classifiers over HTTP. Research use only, never a diagnosis."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.config.settings import Settings

__version__ = "0.1.0"


def create_app(settings: "Settings | None" = None) -> "Flask":
    """Put the parts together and load the models. All imports stand in functions, so that `import app` is free.

    `settings` are those of this process (`read_settings`) unless given. Raises `SettingsError` if one is not allowed;
    in a command of `flask`, `click.ClickException`.
    """
    import click

    from app import cli
    from app.api.blueprints import register_blueprints
    from app.api.login.authenticator import make_authenticator
    from app.api.request.error_handlers import register_error_handlers
    from app.api.request.observation import Observation
    from app.api.request.places import Admission
    from app.api.request.routing import RoutedFlask, Router, trust_proxies
    from app.api.request.services import EXTENSION, make_services
    from app.logs import configure_logs
    from app.web.pages import register_pages

    settings = prepare_settings(settings)
    app, services = RoutedFlask(settings), make_services(settings)
    authenticator = make_authenticator(settings, services.limits, services.followed)
    app.extensions |= {EXTENSION: services, "authenticator": authenticator}
    register_error_handlers(app)
    register_blueprints(app, services.metrics)
    write_page = register_pages(app)
    app.router = Router(app.url_map, settings)
    admission = Admission(settings, services.registry)
    observed = Observation(app, admission, services.metrics, authenticator is None, write_page)
    wrapped = trust_proxies(observed, settings.trusted_proxies)
    app.wsgi_app = wrapped  # type: ignore[method-assign, assignment]  # Flask's way to wrap
    cli.register_commands(app)

    # A command other than `flask run` serves nobody: adding a user must not wait for the models.
    command = click.get_current_context(silent=True)
    if command is not None and command.info_name == "run":
        configure_logs(settings.log_level, settings.log_format)
    if command is None or command.info_name == "run":
        services.follower.start()
    return app


def prepare_settings(given: "Settings | None") -> "Settings":
    """Return the settings given, or those of this process, once no restore has anything left to do in their folders."""
    import click

    from app.config.settings import read_settings
    from app.errors import SettingsError
    from app.upkeep.swap import finish_restore

    try:
        settings = given or read_settings()
        finish_restore(settings)
    except SettingsError as error:
        if click.get_current_context(silent=True) is None:
            raise
        raise click.ClickException(error.message) from None  # `flask` prints the reason without a traceback
    return settings
