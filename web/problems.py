"""Errors as problem details (RFC 9457): every answer of the app that is not a success is one."""

from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from integrator.logs import describe, get_logger

log = get_logger(__name__)

MEDIA_TYPE = "application/problem+json"


def problem(
    status: int, detail: str, *, retry_after_seconds: int | None = None, allow: str | None = None, **members: Any
) -> Response:
    """Make a problem details answer. `detail` is a sentence for people; `members` are added as they are."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    response = Response(orjson.dumps(body | members), status=status, content_type=MEDIA_TYPE)
    if retry_after_seconds is not None:
        response.headers["Retry-After"] = str(retry_after_seconds)
    if allow is not None:
        response.headers["Allow"] = allow
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Signature"
    return response


def init_app(app: Flask) -> None:
    """Let the app answer every error so."""
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(Exception, _of_bug)


_SENTENCES: dict[int, str] = {
    HTTPStatus.NOT_FOUND: "There is nothing at this address.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This address does not take this method.",
}


def _of_http(error: HTTPException) -> ResponseReturnValue:
    if error.response is not None or error.code is None:
        return error.get_response()
    sentence = _SENTENCES.get(error.code) or error.description or HTTPStatus(error.code).phrase
    allow = dict(error.get_headers()).get("Allow") if error.code == HTTPStatus.METHOD_NOT_ALLOWED else None
    return problem(error.code, sentence, allow=allow)


def _of_bug(error: Exception) -> Response:
    log.error("request_failed", **describe(type(error), error.__traceback__))
    return problem(500, "Something failed here; the log says what.")
