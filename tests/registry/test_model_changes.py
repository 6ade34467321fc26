"""Reasons why a model is not taken become errors that say whose fault it is."""

import pytest

from app.errors import (
    AnsweredError,
    ArchiveError,
    CompiledModelError,
    CompileTimeoutError,
    FrameworkMissingError,
    InvalidModelError,
    ManifestError,
    ModelFolderError,
    ModelProcessError,
    ModelStartError,
    ProcessStartError,
    ServiceUnavailableError,
)
from app.registry.model_changes import translate_reasons


@pytest.mark.parametrize(
    "reason, answered, status",
    [
        (FrameworkMissingError, ModelStartError, 500),
        (CompileTimeoutError, ServiceUnavailableError, 503),
        (ProcessStartError, ServiceUnavailableError, 503),
        (CompiledModelError, InvalidModelError, 400),
        (ModelProcessError, InvalidModelError, 400),
        (ManifestError, InvalidModelError, 400),
        (ArchiveError, InvalidModelError, 400),
    ],
)
def test_fault_of_the_server_is_not_answered_as_the_callers(
    reason: type[ModelFolderError], answered: type[AnsweredError], status: int
) -> None:
    with pytest.raises(answered, match=r"^the reason$") as caught, translate_reasons():
        raise reason("the reason")
    assert caught.value.status == status
