"""Read by `gunicorn wsgi:app`; the settings are those of the environment, see get_started/settings.md."""

import sys

from app.config.settings import Settings
from app.errors import SettingsError
from app.gunicorn_conf import make_config

try:
    globals().update(make_config(Settings.from_env()))
except SettingsError as error:
    sys.exit(f"scancer: {error.message}")
