"""Everything that can go wrong, as one tree; each class knows whose fault it is.

    ScancerError
    ├── RequestError                    the caller's: answered with its status and message
    │   ├── BadRequestError             400  BadRequestException
    │   ├── UnauthorizedError           401  UnauthorizedException
    │   ├── ForbiddenError              403  ForbiddenException
    │   ├── ResourceNotFoundError       404  ResourceNotFoundException
    │   ├── ModelNotFoundError          404  ModelNotFoundException
    │   ├── ModelVersionNotFoundError   404  ModelVersionNotFoundException
    │   ├── InvalidModelError           400  InvalidModelException
    │   ├── DownloadError               400  DownloadArchiveException
    │   ├── InvalidModelVersionError    403  InvalidModelVersionException
    │   ├── MethodNotAllowedError       405  MethodNotAllowedException
    │   ├── ConflictError               409  ConflictStatusException
    │   ├── BodyTooLargeError           413  BodyTooLargeException
    │   ├── UnsupportedMediaError       415  UnsupportedMediaException
    │   ├── DamagedImageError           422  DamagedImageException
    │   ├── UnsupportedImageError       422  UnsupportedImageException
    │   └── TooManyLoginsError          429  TooManyLoginsException
    ├── ServiceError                    ours: answered with its status; the message says nothing of the inside
    │   ├── InferenceError              500  InternalServerException
    │   ├── ModelStartError             500  InternalServerException, with its message
    │   ├── HandlerFaultError           503  InternalServerException, with its message
    │   ├── ServiceUnavailableError     503  ServiceUnavailableException
    │   ├── UnloadTimeoutError          408  RequestTimeoutException
    │   ├── DeadlineError               504  GatewayTimeoutException
    │   └── DiskFullError               507  InsufficientStorageException
    ├── BrokenAnswerError               breaks off an answer that has begun: its connection ends without the last part
    └── OperatorError                   the operator's: never reaches a caller; stops a command or marks a model
        ├── SettingsError
        ├── UsersError
        ├── PicturesError
        ├── EvaluationError
        ├── StateStoreError
        └── ModelFolderError
            ├── ManifestError
            │   └── OutOfBoundsError
            ├── IntegrityError
            ├── CompiledModelError
            │   └── NotCompiledNowError
            ├── FrameworkMissingError
            ├── ModelProcessError
            │   └── ProcessStartError
            └── ModelFileError          a model that somebody brings, and that is not taken
                ├── ArchiveError
                ├── ModelFormatError
                ├── SignatureError
                └── ModelExistsError

The `type` texts of the statuses that TorchServe also has are TorchServe's: clients compare them.
"""

from http import HTTPStatus
from typing import ClassVar


class ScancerError(Exception):
    """Base of all errors of this project."""

    @property
    def message(self) -> str:
        """The text the error was raised with."""
        return str(self)


class AnsweredError(ScancerError):
    """An error that an HTTP caller may see: it has a status and a type."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    type: ClassVar[str] = "InternalServerException"

    def to_json(self) -> dict[str, object]:
        """Return TorchServe's shape of an error: `{"code": 404, "type": "ModelNotFoundException", "message": "…"}`."""
        return {"code": int(self.status), "type": self.type, "message": self.message}


class RequestError(AnsweredError):
    """The request cannot be answered as it is."""


class BadRequestError(RequestError):
    """The request is empty or malformed."""

    status = HTTPStatus.BAD_REQUEST
    type = "BadRequestException"


class UnauthorizedError(RequestError):
    """No credentials, or wrong ones."""

    status = HTTPStatus.UNAUTHORIZED
    type = "UnauthorizedException"


class ForbiddenError(RequestError):
    """The user is known but lacks the role."""

    status = HTTPStatus.FORBIDDEN
    type = "ForbiddenException"


class ResourceNotFoundError(RequestError):
    """Nothing is served at this path."""

    status = HTTPStatus.NOT_FOUND
    type = "ResourceNotFoundException"


class ModelNotFoundError(RequestError):
    """No model has this name."""

    status = HTTPStatus.NOT_FOUND
    type = "ModelNotFoundException"


class ModelVersionNotFoundError(RequestError):
    """The model has no such version."""

    status = HTTPStatus.NOT_FOUND
    type = "ModelVersionNotFoundException"


class MethodNotAllowedError(RequestError):
    """The path exists, but not with this method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    type = "MethodNotAllowedException"


class InvalidModelError(RequestError):
    """What is to be registered is no model that can be served."""

    status = HTTPStatus.BAD_REQUEST
    type = "InvalidModelException"


class DownloadError(RequestError):
    """A URL that is allowed, and from which no model can be had."""

    status = HTTPStatus.BAD_REQUEST
    type = "DownloadArchiveException"


class InvalidModelVersionError(RequestError):
    """The default version cannot be removed while there are others."""

    status = HTTPStatus.FORBIDDEN
    type = "InvalidModelVersionException"


class ConflictError(RequestError):
    """The version is registered already."""

    status = HTTPStatus.CONFLICT
    type = "ConflictStatusException"


class BodyTooLargeError(RequestError):
    """The body is larger than `SCANCER_MAX_BODY_BYTES`."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    type = "BodyTooLargeException"


class UnsupportedMediaError(RequestError):
    """The bytes are not a picture of an accepted format, or the body is compressed."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    type = "UnsupportedMediaException"


class DamagedImageError(RequestError):
    """A picture of an accepted format that cannot be decoded to its end."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    type = "DamagedImageException"


class UnsupportedImageError(RequestError):
    """A sound picture that is not taken: too large, several frames, or samples without a defined range."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    type = "UnsupportedImageException"


class TooManyLoginsError(RequestError):
    """More passwords wait to be verified than the worker will queue."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    type = "TooManyLoginsException"


class ServiceError(AnsweredError):
    """The request was fine; the service could not answer it."""


class InferenceError(ServiceError):
    """The model failed or returned numbers that are no scores."""


class ModelStartError(ServiceError):
    """A model that was registered or scaled could not be loaded; unlike others of status 500, it says so."""


class HandlerFaultError(ServiceError):
    """The program of a model archive failed; the message is TorchServe's."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class ServiceUnavailableError(ServiceError):
    """The model is not ready, or its queue is full."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "ServiceUnavailableException"


class DeadlineError(ServiceError):
    """The caller waits no longer: its deadline passed, or would before there is an answer, or it has gone."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    type = "GatewayTimeoutException"


class UnloadTimeoutError(ServiceError):
    """A version was not unloaded in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    type = "RequestTimeoutException"


class DiskFullError(ServiceError):
    """The disk is full; nothing was left on it."""

    status = HTTPStatus.INSUFFICIENT_STORAGE
    type = "InsufficientStorageException"


class OperatorError(ScancerError):
    """Something in the installation that its operator must mend."""


class SettingsError(OperatorError):
    """An environment variable has a value that is not allowed."""


class UsersError(OperatorError):
    """The users file cannot be read or changed as asked."""


class PicturesError(OperatorError):
    """A folder of labelled pictures cannot be used."""


class EvaluationError(OperatorError):
    """The report of an evaluation is missing, out of date or unfit for a comparison, or cannot be written."""


class BrokenAnswerError(ScancerError):
    """The rest of an answer that has begun will not come; the message is the reason, for the log."""


class StateStoreError(OperatorError):
    """The database that says what is wanted, or the reports of the workers, cannot be read or changed."""


class ModelFolderError(OperatorError):
    """A model folder cannot be served; the message is the reason shown in `/models`."""


class ManifestError(ModelFolderError):
    """`model.toml` is missing, malformed, or contradicts its folder."""


class OutOfBoundsError(ManifestError):
    """A number from outside is no number, or is out of its bounds; see `app.manifest.bounds`."""


class IntegrityError(ModelFolderError):
    """A file of the model folder is missing or is not the one its hash names."""


class CompiledModelError(ModelFolderError):
    """There is no compiled model, or it was not made from this artifact and manifest."""


class NotCompiledNowError(CompiledModelError):
    """This server could not compile the model now: there was no process, or not enough time for it."""


class FrameworkMissingError(ModelFolderError):
    """The framework that the model needs, or what quantizes it, is not installed."""


class ModelProcessError(ModelFolderError):
    """The process that runs a model natively could not start, died, or took too long."""


class ProcessStartError(ModelProcessError):
    """The process took too long to start, or died meanwhile; the model itself may be sound."""


class ModelFileError(ModelFolderError):
    """A model that is to be added is not taken; the message is the reason."""


class ArchiveError(ModelFileError):
    """An archive or folder is damaged, too large, or holds what an archive of a model may not hold."""


class ModelFormatError(ModelFileError):
    """A file is of no format that is taken, or of one that can run code."""


class SignatureError(ModelFileError):
    """A signature does not hold, or its key is not trusted here."""


class ModelExistsError(ModelFileError):
    """The model repository has this version already."""
