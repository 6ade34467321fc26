"""All errors of this project. Its branches say whose fault an error is: the caller's, ours, or the operator's.

The `type` texts are TorchServe's where it has the status too, because clients compare them.
"""

from http import HTTPStatus
from typing import Any, ClassVar, Protocol


class Fit(Protocol):
    """What an error tells of a picture that a model was not made for: see `app.pipeline.fit.Fit`."""

    @property
    def distance(self) -> float | None:
        """Its distance to the training pictures."""

    def to_json(self) -> dict[str, Any]:
        """The field `fit` of an answer."""


class ScancerError(Exception):
    """Base of all errors of this project."""

    @property
    def message(self) -> str:
        """The text with which the error was raised."""
        return str(self)


class AnsweredError(ScancerError):
    """An error that an HTTP caller may see; a subclass names its status and `type` as keywords, or inherits them."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    type: ClassVar[str] = "InternalServerException"
    retry_after_s: int | None = None
    """After how many seconds the same request may be sent again, if that is known."""

    def __init_subclass__(cls, status: HTTPStatus | None = None, type: str | None = None) -> None:
        super().__init_subclass__()
        cls.status = status or cls.status
        cls.type = type or cls.type

    def to_json(self) -> dict[str, object]:
        """Return the answer's JSON: `{"code": 404, "type": "ModelNotFoundException", "message": "…"}`."""
        return {"code": int(self.status), "type": self.type, "message": self.message}


class RequestError(AnsweredError):
    """The caller must change the request before it can be answered."""


class BadRequestError(RequestError, status=HTTPStatus.BAD_REQUEST, type="BadRequestException"):
    """The request is empty or malformed."""


class UnauthorizedError(RequestError, status=HTTPStatus.UNAUTHORIZED, type="UnauthorizedException"):
    """The request has no credentials, or wrong ones."""


class ForbiddenError(RequestError, status=HTTPStatus.FORBIDDEN, type="ForbiddenException"):
    """The user is known, but lacks the role that the call needs."""


class ResourceNotFoundError(RequestError, status=HTTPStatus.NOT_FOUND, type="ResourceNotFoundException"):
    """Nothing is served at this path."""


class ModelNotFoundError(RequestError, status=HTTPStatus.NOT_FOUND, type="ModelNotFoundException"):
    """No model has this name."""


class ModelVersionNotFoundError(RequestError, status=HTTPStatus.NOT_FOUND, type="ModelVersionNotFoundException"):
    """The model has no such version."""


class MethodNotAllowedError(RequestError, status=HTTPStatus.METHOD_NOT_ALLOWED, type="MethodNotAllowedException"):
    """The path exists, but not with this method."""


class InvalidModelError(RequestError, status=HTTPStatus.BAD_REQUEST, type="InvalidModelException"):
    """The model that the caller registers cannot be served."""


class DownloadError(RequestError, status=HTTPStatus.BAD_REQUEST, type="DownloadArchiveException"):
    """No model could be fetched from a URL, although the URL is allowed."""


class InvalidModelVersionError(RequestError, status=HTTPStatus.FORBIDDEN, type="InvalidModelVersionException"):
    """The caller removes the default version while the model has other versions."""


class ConflictError(RequestError, status=HTTPStatus.CONFLICT, type="ConflictStatusException"):
    """The change contradicts another one, e.g. the version is registered already."""


class BodyTooLargeError(RequestError, status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE, type="BodyTooLargeException"):
    """The body is larger than `SCANCER_MAX_BODY_BYTES`."""


class UnsupportedMediaError(RequestError, status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE, type="UnsupportedMediaException"):
    """The bytes are not a picture of an accepted format, or the body is compressed."""


class UnfitImageError(RequestError, status=HTTPStatus.UNPROCESSABLE_ENTITY, type="UnfitImageException"):
    """The picture is not of the kind that the model was made for; `fit` is what an answer would say of that, and
    `timing` where the time went until it was known.
    """

    fit: "Fit | None" = None
    timing: Any = None

    def to_json(self) -> dict[str, object]:
        """Return the answer's JSON, with the field `fit` of an answer."""
        return super().to_json() | ({"fit": self.fit.to_json()} if self.fit else {})


class DamagedImageError(RequestError, status=HTTPStatus.UNPROCESSABLE_ENTITY, type="DamagedImageException"):
    """The picture has an accepted format, but cannot be decoded to its end."""


class UnsupportedImageError(RequestError, status=HTTPStatus.UNPROCESSABLE_ENTITY, type="UnsupportedImageException"):
    """The picture is sound, but too large, or has several frames, or has samples without a defined range."""


class MisdirectedError(RequestError, status=HTTPStatus.MISDIRECTED_REQUEST, type="MisdirectedRequestException"):
    """Nobody is asked for a password, and the request names another host than this machine."""


class RateError(RequestError, status=HTTPStatus.TOO_MANY_REQUESTS, type="TooManyRequestsException"):
    """The caller has sent more of something than the server takes at a time."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyLoginsError(RateError, type="TooManyLoginsException"):
    """Too many passwords wait to be verified, or were wrong of late."""


class ServiceError(AnsweredError):
    """The request is sound, but the service cannot answer it. The caller sees no inner details."""


class InferenceError(ServiceError):
    """The model failed, or its numbers cannot be scores."""


class ModelStartError(ServiceError):
    """A model could not be loaded after its registration or scaling. The caller sees the message."""


class HandlerFaultError(ServiceError, status=HTTPStatus.SERVICE_UNAVAILABLE):
    """The program of a model archive failed. The caller sees the message, which is TorchServe's."""


class ServiceUnavailableError(ServiceError, status=HTTPStatus.SERVICE_UNAVAILABLE, type="ServiceUnavailableException"):
    """The model is not ready, or its queue is full."""

    retry_after_s = 1


class DeadlineError(ServiceError, status=HTTPStatus.GATEWAY_TIMEOUT, type="GatewayTimeoutException"):
    """The deadline has passed, or would pass before the answer is ready, or the caller has gone."""


class UnloadTimeoutError(ServiceError, status=HTTPStatus.REQUEST_TIMEOUT, type="RequestTimeoutException"):
    """The version was not unloaded before the timeout."""


class DiskFullError(ServiceError, status=HTTPStatus.INSUFFICIENT_STORAGE, type="InsufficientStorageException"):
    """The disk is full. The change left nothing behind."""


class OperatorError(ScancerError):
    """The operator must mend something in the installation. It stops a command, or is a model's reason."""


class SettingsError(OperatorError):
    """A setting has a value that is not allowed, or its name is unknown."""


class UsersError(OperatorError):
    """The users file cannot be read, or cannot be changed in this way."""


class UsersUnreadableError(UsersError):
    """The users file cannot be read now, whatever it holds; another try may succeed."""


class PicturesError(OperatorError):
    """A folder of labelled pictures cannot be used."""


class EvaluationError(OperatorError):
    """An evaluation report is missing, out of date, not comparable with another one, or cannot be written."""


class BrokenAnswerError(ScancerError):
    """An answer breaks off after its beginning was sent. The log gets the message."""


class StateStoreError(OperatorError):
    """The state store or the workers' reports cannot be read or changed."""


class OlderStateError(StateStoreError):
    """The state store has an earlier release's schema; whoever opens it for writing brings it forward."""


class BackupError(OperatorError):
    """A backup cannot be written, is damaged, or cannot be restored here. What was there is as it was."""


class ModelFolderError(OperatorError):
    """A model folder cannot be served. `/models` shows the message as the reason."""


class ManifestError(ModelFolderError):
    """`model.toml` is missing, malformed, or contradicts its folder."""


class OutOfBoundsError(ManifestError):
    """A value from outside is no number, or is out of the bounds in `app.manifest.bounds`."""


class IntegrityError(ModelFolderError):
    """A file of the model folder is missing, or its hash differs from the stated one."""


class CompiledModelError(ModelFolderError):
    """The compiled model is missing, or was made from another artifact or manifest."""


class NotCompiledNowError(CompiledModelError):
    """The server had no process, time, memory or disk to compile the model. The model may be sound."""


class FrameworkMissingError(ModelFolderError):
    """A framework or a quantizer that the model needs is not installed."""


class ModelProcessError(ModelFolderError):
    """The process of a native model or of an archive's program could not start, died, or took too long."""


class ProcessStartError(ModelProcessError):
    """The process took too long to start, or died at its start. The model may be sound."""


class ModelFileError(ModelFolderError):
    """A model is refused when it is added. The message is the reason."""


class ArchiveError(ModelFileError):
    """An archive or folder is damaged, too large, or holds something that is not allowed in a model."""


class ModelFormatError(ModelFileError):
    """The format of a file is unknown, or can run code."""


class SignatureError(ModelFileError):
    """A signature does not fit its files, or this server does not trust its key."""


class ModelExistsError(ModelFileError):
    """The model repository has this version already."""
