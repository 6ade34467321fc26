"""Every failure, whoever raised it, becomes the one error shape; KServe's protocols have one of their own."""

import logging
from http import HTTPStatus

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from app.api.request.services import facts, services
from app.errors import (
    AnsweredError,
    BadRequestError,
    BodyTooLargeError,
    MethodNotAllowedError,
    ModelStartError,
    ResourceNotFoundError,
    ServiceUnavailableError,
    TooManyLoginsError,
    UnauthorizedError,
)
from app.routes import OPEN_INFERENCE_PATHS

log = logging.getLogger(__name__)

REALM = "Scancer API"
RETRY_AFTER_S = 1


def register_error_handlers(app: Flask) -> None:
    """Answer our own errors, werkzeug's, and whatever else is raised."""

    @app.errorhandler(AnsweredError)
    def answer(error: AnsweredError) -> Response:
        if error.status is HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, ModelStartError):
            return answer_unexpected(error)
        facts().outcome = error.type
        response = jsonify(shape_error(error.to_json()))
        response.status_code = error.status
        if isinstance(error, UnauthorizedError):
            response.headers["WWW-Authenticate"] = f'Basic realm="{REALM}", charset="UTF-8"'
        if isinstance(error, (ServiceUnavailableError, TooManyLoginsError)):
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    @app.errorhandler(HTTPException)
    def answer_werkzeug(error: HTTPException) -> Response:
        response = answer(translate(error))
        response.headers.extend([(key, value) for key, value in error.get_headers() if key == "Allow"])
        return response

    @app.errorhandler(Exception)
    def answer_unexpected(error: Exception) -> Response:
        known = facts()
        log.error("unexpected error", exc_info=error, extra={"request_id": known.request_id})
        known.outcome = "InternalServerException"
        message = f"The server failed unexpectedly; its log has the details of request {known.request_id}."
        response = jsonify(shape_error({"code": 500, "type": "InternalServerException", "message": message}))
        response.status_code = HTTPStatus.INTERNAL_SERVER_ERROR
        return response


def shape_error(error: dict[str, object], path: str | None = None) -> dict[str, object]:
    """Bring an error to the shape that a path's protocol has for it; without a path, that of the current request."""
    asked = request.path if path is None else path
    return {"error": error["message"]} if asked.startswith(OPEN_INFERENCE_PATHS) else error


def translate(error: HTTPException) -> AnsweredError:
    """Find our error for one of werkzeug's."""
    if error.code == HTTPStatus.NOT_FOUND:
        return ResourceNotFoundError("Requested resource is not found, please refer to API document.")
    if error.code == HTTPStatus.METHOD_NOT_ALLOWED:
        return MethodNotAllowedError("Requested method is not allowed, please refer to API document.")
    if error.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        limit = services().settings.max_body_bytes
        if (request.content_length or 0) <= limit:  # werkzeug's status for a form of too many parts
            return BadRequestError("The form has too many parts.")
        return BodyTooLargeError(f"The body is larger than {limit} bytes.")
    return BadRequestError("The request is malformed.")
