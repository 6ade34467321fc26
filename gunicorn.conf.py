"""Read by `gunicorn wsgi:app`, at the start and at each reload; get_started/settings.md lists the settings."""

import sys

from app.config.settings import read_settings
from app.errors import SettingsError
from app.gunicorn_conf import make_config

try:
    globals().update(make_config(read_settings()))
except SettingsError as error:
    sys.exit(f"scancer: {error.message}")
