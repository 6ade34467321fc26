"""The program that explains a compiled archive's answers, when its model is unloaded."""

from pathlib import Path

import pytest

from app.errors import HandlerFaultError
from app.handlers.client.explainer import Explainer
from app.handlers.client.pool_client import PoolClient
from app.handlers.handler_archive import read_archive
from app.pipeline.patience import Patience
from tests.handlers.archives import make_tiny


def test_after_the_model_was_unloaded_nothing_is_started_and_the_error_says_why(
    tmp_path: Path, pools: PoolClient
) -> None:
    explainer = Explainer(read_archive(make_tiny(tmp_path, "tiny-model"), "tiny-model", "1.0"), lambda: pools)
    explainer.close()
    reason = r"cannot be started: its model is being unloaded\.$"
    with pytest.raises(HandlerFaultError, match=reason), explainer.lend(Patience()):
        pytest.fail("a program was lent")
