"""What keeps the counts: a Redis is looked at before the server starts, without a connection to it."""

import subprocess
import sys

import pytest

from app.api.login.rate_limits import check_store
from app.config.setting_types import PROJECT_ROOT, parse_store
from app.errors import SettingsError

SECRET = "correct-horse"


@pytest.mark.parametrize("option", ["unknown=1", "health_check_interval=often", "protocol=9"])
def test_option_that_redis_does_not_take_is_refused_at_the_start_without_the_url(option: str) -> None:
    with pytest.raises(SettingsError) as raised:
        check_store(parse_store(f"redis://:{SECRET}@redis/0?{option}"))
    assert raised.value.message == "SCANCER_LIMITS_STORE has an option after ? that Redis's package does not take."
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    "store",
    [
        "memory",
        f"redis://:{SECRET}%2F@127.0.0.1:1/0",
        f"rediss://ada:{SECRET}@[::1]:1?ssl_ca_certs=/etc/ca.pem",
        "redis+unix:///no/redis.sock?db=2",
    ],
)
def test_store_that_is_away_at_the_start_is_no_reason_not_to_start(store: str) -> None:
    check_store(parse_store(store))


def test_what_counts_is_imported_before_requests_could_import_it_at_once() -> None:
    program = (
        "import sys; from app import add_views; from app.api.request.routing import RoutedFlask\n"
        "from app.api.request.services import make_services; from app.config.settings import Settings\n"
        "settings = Settings(auth='off'); app, services = RoutedFlask(settings), make_services(settings)\n"
        "app.extensions['scancer'] = services; before = 'limits' in sys.modules; add_views(app, services)\n"
        "print(before, {'limits.storage', 'limits.strategies', 'limits.errors'} <= set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
