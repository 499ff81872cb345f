"""Errors come in, answers in the form of OpenAI's error object go out."""

import json
import math
import traceback
from pathlib import Path
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from lucidlm.errors import LucidError, ServerError
from lucidlm.runtime.console import say
from lucidlm.runtime.wording import one_line

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}
MESSAGE_CHARACTERS = 500


def finite(value: Any) -> Any:
    """The value with None for infinity and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: Any) -> str:
    """JSON in one line."""
    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def json_bytes(value: Any) -> bytes:
    r"""JSON in UTF-8; half of a surrogate pair, which UTF-8 does not have, as its escape \ud800."""
    return json_text(value).encode("utf-8", errors="backslashreplace")


class Answer(JSONResponse):
    """A JSON answer."""

    def render(self, content: Any) -> bytes:
        """The bytes of the body."""
        return json_bytes(content)


def error_object(message: str, status: int, *, param: str | None = None) -> dict[str, Any]:
    """The body of an answer that is an error."""
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    shown = one_line(message)
    shown = shown if len(shown) <= MESSAGE_CHARACTERS else f"{shown[:MESSAGE_CHARACTERS]}..."
    return {"error": {"message": shown, "type": kind, "param": param, "code": CODES.get(status)}}


def status_of(error: Exception) -> int:
    """The status of HTTP that an error has."""
    if isinstance(error, ServerError):
        return error.status
    if isinstance(error, LucidError):
        return 400 if error.exit_code == 2 else 500
    return error.status_code if isinstance(error, HTTPException) else 500


def error_of(error: Exception) -> dict[str, Any]:
    """The error object of an error; of our own faults it says no more than that they are ours."""
    status = status_of(error)
    if isinstance(error, LucidError):
        return error_object(str(error), status, param=getattr(error, "param", None))
    if isinstance(error, HTTPException):
        return error_object(str(error.detail), status)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    say(f"a request failed: {type(error).__name__}: {error}{where}")
    return error_object(f"internal error in lucidlm: {type(error).__name__}; please report it", status)


async def answer_error(request: Request, error: Exception) -> Answer:
    """The answer to a request that failed."""
    status, headers = status_of(error), dict(getattr(error, "headers", None) or {})
    if isinstance(error, ServerError) and error.retry_s is not None:
        headers["retry-after"] = str(error.retry_s)
    return Answer(error_of(error), status, headers)


async def answer_wrong_form(request: Request, error: Exception) -> Answer:
    """The answer to a body that is not as the route's form says; the first fault is named."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = [str(part) for part in first["loc"][1:]]  # after "body" or "query"
    # A field with several types has a fault for each; the names of the types are no part of the place.
    param = place[0] if place and first["type"] != "json_invalid" else None
    said = {"extra_forbidden": "there is no such field", "json_invalid": "the body is not valid JSON"}
    message = said.get(first["type"], first["msg"])
    return Answer(error_object(f"{param}: {message}" if param else message, 400, param=param), 400)
