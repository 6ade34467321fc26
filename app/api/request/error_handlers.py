"""Every failure becomes an answer in the shape that its path's protocol has for errors."""

import logging
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from app.api.login.authenticator import find_token
from app.api.request.services import facts, services
from app.errors import (
    AnsweredError,
    BadRequestError,
    BodyTooLargeError,
    MethodNotAllowedError,
    ModelStartError,
    ResourceNotFoundError,
    UnauthorizedError,
)

log = logging.getLogger(__name__)


def register_error_handlers(app: Flask) -> None:
    """Answer our own errors, werkzeug's, and all others."""

    @app.errorhandler(AnsweredError)
    def answer(error: AnsweredError) -> Response:
        if error.status is HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, ModelStartError):
            return answer_unexpected(error)
        response = make_error(error.to_json())
        if isinstance(error, UnauthorizedError):
            response.headers["WWW-Authenticate"] = name_challenge(request.environ.get("HTTP_AUTHORIZATION", ""))
        if error.retry_after_s is not None:
            response.headers["Retry-After"] = str(error.retry_after_s)
        return response

    @app.errorhandler(HTTPException)
    def answer_werkzeug(error: HTTPException) -> Response:
        response = answer(translate(error))
        response.headers.extend([(key, value) for key, value in error.get_headers() if key == "Allow"])
        return response

    @app.errorhandler(Exception)
    def answer_unexpected(error: Exception) -> Response:
        request_id = facts().request_id
        log.error("unexpected error", exc_info=error, extra={"request_id": request_id})
        message = f"The server failed unexpectedly; its log has the details of request {request_id}."
        return make_error(AnsweredError(message).to_json())


def make_error(error: dict[str, Any]) -> Response:
    """Make the response of a request that failed, and note its type for the log; `error` is in TorchServe's shape."""
    facts().outcome = error["type"]
    response = jsonify(shape_error(error, request.path))
    response.status_code = error["code"]
    return response


def shape_error(error: dict[str, Any], path: str) -> dict[str, Any]:
    """Bring an error from TorchServe's shape to that of a path's protocol: KServe's protocols have another."""
    return {"error": error["message"]} if path.startswith(("/v1/", "/v2")) else error


def name_challenge(header: str) -> str:
    """Return what a 401 asks for. Who sent a token is asked for another one, all others for a password."""
    if find_token(header) is not None:
        return 'Bearer realm="Scancer API", error="invalid_token"'  # RFC 6750, section 3
    return 'Basic realm="Scancer API", charset="UTF-8"'


def translate(error: HTTPException) -> AnsweredError:
    """Translate an error of werkzeug's into one of ours."""
    if error.code == HTTPStatus.NOT_FOUND:
        return ResourceNotFoundError("Requested resource is not found, please refer to API document.")
    if error.code == HTTPStatus.METHOD_NOT_ALLOWED:
        return MethodNotAllowedError("Requested method is not allowed, please refer to API document.")
    if error.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return BodyTooLargeError(f"The body is larger than {services().settings.max_body_bytes} bytes.")
    return BadRequestError("The request is malformed.")
