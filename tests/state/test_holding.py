"""While a backup holds the state, nobody changes it, whatever database keeps it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from app.config.settings import Settings
from app.state.copying.state_copy import hold_state
from app.state.people.audit_trail import AuditEntry, AuditTrail
from app.state.people.users_table import UsersTable
from app.state.store_access import StoreAccess
from tests.conftest import PASSWORD
from tests.state.test_state_store import POSTGRES, run_postgres


@pytest.fixture(params=["sqlite", "sqlite URL", pytest.param("postgresql", marks=pytest.mark.slow)])
def access(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Settings, StoreAccess]]:
    """A store with a user, and its settings."""

    def fill(database: str) -> Iterator[tuple[Settings, StoreAccess]]:
        settings = Settings(database=database, instance=tmp_path)
        with closing(StoreAccess(settings)) as access:
            UsersTable(access).add("ada", "predict", PASSWORD)
            yield settings, access

    if request.param != "postgresql":
        yield from fill("sqlite" if request.param == "sqlite" else f"sqlite:///{tmp_path}/shared.db")
        return
    found = sorted(POSTGRES.glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with run_postgres(found[-1].parent) as url:
        yield from fill(url)


def set_default(store: StoreAccess) -> None:
    with store.open().change() as draft:
        draft.defaults["a"] = "1"


CHANGES: dict[str, Callable[[StoreAccess], object]] = {
    "users": lambda store: UsersTable(store).remove("ada"),
    "models": set_default,
    "trail": lambda store: AuditTrail(store).write(AuditEntry("ada", "signed in")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_change_waits_while_the_state_is_held(access: tuple[Settings, StoreAccess], name: str) -> None:
    settings, store = access
    with ThreadPoolExecutor() as pool:
        with hold_state(settings) as content:
            assert content is not None
            waiting = pool.submit(CHANGES[name], store)
            with pytest.raises(TimeoutError):
                waiting.result(0.5)
        waiting.result(30)
    with hold_state(settings) as later:
        assert later != content
