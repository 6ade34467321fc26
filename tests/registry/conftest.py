"""What the tests of the registry share: short waits, so that what comes back by itself comes back soon."""

import pytest


@pytest.fixture(autouse=True)
def shorten_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at folders, and try anew, after fractions of the server's own times."""
    monkeypatch.setattr("app.registry.folder_scan.SETTLE_S", 0.2)
    monkeypatch.setattr("app.registry.model_follower.SCAN_S", 0.2)
    monkeypatch.setattr("app.registry.version_slot.FIRST_PAUSE_S", 0.2)
    monkeypatch.setattr("app.registry.version_slot.PAUSE_FACTOR", 2)
