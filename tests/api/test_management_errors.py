"""Reasons why a model is not taken become errors that say whose fault it is."""

import pytest

from app.api.request.changes import translate_errors
from app.errors import (
    AnsweredError,
    ArchiveError,
    CompiledModelError,
    ConflictError,
    FrameworkMissingError,
    InvalidModelError,
    ManifestError,
    ModelExistsError,
    ModelFolderError,
    ModelProcessError,
    ModelStartError,
    NotCompiledNowError,
    ProcessStartError,
    ServiceUnavailableError,
)


@pytest.mark.parametrize(
    "reason, answered, status",
    [
        (FrameworkMissingError, ModelStartError, 500),
        (NotCompiledNowError, ServiceUnavailableError, 503),
        (ProcessStartError, ServiceUnavailableError, 503),
        (CompiledModelError, InvalidModelError, 400),
        (ModelProcessError, InvalidModelError, 400),
        (ManifestError, InvalidModelError, 400),
        (ArchiveError, InvalidModelError, 400),
        (ModelExistsError, ConflictError, 409),
    ],
)
def test_fault_of_the_server_is_not_answered_as_the_callers(
    reason: type[ModelFolderError], answered: type[AnsweredError], status: int
) -> None:
    with pytest.raises(answered, match=r"^the reason$") as caught, translate_errors():
        raise reason("the reason")
    assert caught.value.status == status
