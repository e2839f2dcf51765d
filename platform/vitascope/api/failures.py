"""Errors, as clients see them."""

from vitascope.api.shapes import Error, ErrorAnswer
from vitascope.ledger import Rejected

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


class Refused(Exception):
    """The request is answered with an error: its HTTP status, and the client's message."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def error(self) -> Error:
        """The error in the answer's body."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return Error(message=self.message, type=kind, param=self.param, code=self.code)

    @property
    def answer(self) -> dict[str, object]:
        """The body of the answer."""
        return ErrorAnswer(error=self.error).model_dump()

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer: how to show a key, or when to try again."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": "5"} if self.status in (429, 503) else {}


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refused:
    """400: the client has to change its request."""
    return Refused(400, message, param=param, code=code or "invalid_request")


def missing(kind: str, given: str) -> Refused:
    """404: no object of this id, or another key's."""
    return Refused(404, f"no {kind} with the id {given[:100]!r}", param=f"{kind}_id", code="not_found")


def of_rejected(rejected: Rejected, param: str | None = None) -> Refused:
    """400 with the reason of the ledger as its code."""
    return Refused(400, rejected.detail, param=param, code=str(rejected.reason))
