"""The one way out: an HTTP client with a total deadline, which says of every failure whether it is in doubt.

No redirects, retries, cookies, netrc or environment proxies: one call is one request. The deadline itself is
kept by the connections of `http_deadline.py`.
"""

import http.client
import json
import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import closing
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any, NoReturn
from urllib.parse import urlsplit

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError

from integrator import errors, tracing
from integrator.http_deadline import Call, Guard, thread
from integrator.plans import Ask

MAX_BODY_BYTES = 16 * 2**20
MAX_RETRY_AFTER_SECONDS = 86_400.0
USER_AGENT = f"integrator/{version('integrator')}"


@dataclass(frozen=True)
class Answer:
    """What came back: status, headers (their names in any case), and the decoded body."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """Parse the body: int for whole numbers, Decimal for all others, NaN and Infinity refused.

        Raises Transient(in_doubt=True): the effect, if there was one, can't be read.
        """
        try:
            return json.loads(self.body, parse_float=Decimal, parse_constant=_refuse)
        except (ValueError, ArithmeticError, RecursionError):
            raise errors.Transient(
                f"the answer {self.status} is not JSON", in_doubt=True, subject="not JSON", detail=self.text()
            ) from None

    @property
    def date(self) -> datetime | None:
        """The time of the other side's clock, in whole seconds; None when it does not say."""
        try:
            told = parsedate_to_datetime(self.headers.get("Date", ""))
        except (ValueError, TypeError, OverflowError):  # a year of 20 digits
            return None
        return told if told.tzinfo else told.replace(tzinfo=UTC)

    def text(self) -> str:
        """The body's first part as text, for `detail`. It may hold personal data."""
        return self.body[: 4 * errors.DETAIL_LIMIT].decode("utf-8", "replace")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


@dataclass(frozen=True)
class Http:
    """A client of one address. It holds no connection: threads share it, and it costs nothing to make.

    `deadline_seconds` bounds a call from its first byte sent to the last byte received, however slowly either
    goes; connecting has `connect_seconds` per address before that (names are resolved in the resolver's own
    time). When it is connected, a call asks `limit` for its place and waits for it; then, before the first byte,
    it asks `guard`. A place that no byte has used is given back. `ca_file` names the certificates to trust instead
    of the public ones.

    >>> Http("https://erp.example/api", headers={"Authorization": "Bearer …"}, deadline_seconds=15)
    Http(base_url='https://erp.example/api', deadline_seconds=15)
    """

    base_url: str
    _: KW_ONLY
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    deadline_seconds: float = 15.0
    connect_seconds: float = field(default=3.0, repr=False)
    guard: Guard | None = field(default=None, repr=False)
    limit: Ask | None = field(default=None, repr=False)
    max_body_bytes: int = field(default=MAX_BODY_BYTES, repr=False)
    ca_file: str | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """The host, as messages name it."""
        return urlsplit(self.base_url).hostname or ""

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send one request, once. Any status is an answer; `raise_for_status` judges it.

        Raises Transient with `in_doubt` False when no byte of the request left, True for every failure after
        that (for a GET too: the caller knows that it had no effect); what limit and guard raise; ValueError for a
        request that can't be written.
        """
        prepared = self._prepare(method, path, {**self.headers, **(headers or {})}, params, body)
        with tracing.inner("call") as span:
            span.note(host=self.host, method=method)
            answer = self._send(prepared)
            span.note(status=answer.status)
            return answer

    def _send(self, prepared: requests.PreparedRequest) -> Answer:
        call = thread.call = Call(self.deadline_seconds, self.guard, self.limit)
        timeout = (self.connect_seconds, self.deadline_seconds)
        try:
            response = thread.connections().send(
                prepared, stream=True, timeout=timeout, verify=self.ca_file or True
            )
            with closing(response):
                return Answer(response.status_code, response.headers, self._read(response))
        except (requests.RequestException, HTTPError, OSError) as error:
            what = _happened(error, call)
        finally:
            call.end()
        # Outside the except block: the library's exceptions quote the address with its query.
        raise errors.Transient(f"{self.host} {what}", in_doubt=call.sent, subject=self.host)

    def _prepare(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None,
        body: bytes | None,
    ) -> requests.PreparedRequest:
        url = f"{self.base_url.rstrip('/')}/{path.lstrip('/')}"
        every = CaseInsensitiveDict({**requests.utils.default_headers(), "User-Agent": USER_AGENT, **headers})
        try:
            for value in every.values():
                value.encode("latin-1")
            return requests.Request(method, url, headers=every, params=params, data=body).prepare()
        except (requests.RequestException, UnicodeError) as error:
            what = type(error).__name__
        raise ValueError(f"a request to {self.host} can't be written: {what}")

    def _read(self, response: requests.Response) -> bytes:
        body = bytearray()
        for chunk in response.iter_content(65_536):
            body += chunk
            if len(body) > self.max_body_bytes:
                raise errors.Transient(
                    f"{self.host} answered more than {self.max_body_bytes} bytes",
                    in_doubt=True,
                    subject=self.host,
                )
        return bytes(body)


def _happened(error: BaseException, call: Call) -> str:
    """Say what happened by the classes in the chain: their texts may quote the request."""
    late = (
        f"did not answer in full within {call.deadline_seconds:g} s"
        if call.sent
        else "could not be reached in time"
    )
    phrases: dict[type[BaseException], str] = {
        socket.gaierror: "is a name that could not be resolved",
        ConnectionRefusedError: "refused the connection",
        ssl.SSLCertVerificationError: "has a certificate that is not trusted",
        TimeoutError: late,
        ConnectionError: "cut the connection",
        http.client.IncompleteRead: "cut the connection",
        ssl.SSLError: "failed at TLS",
        http.client.HTTPException: "answered something that is not HTTP",
    }
    cause: BaseException | None = error
    while cause is not None:
        for kind, phrase in phrases.items():
            if isinstance(cause, kind):
                return phrase
        cause = cause.__cause__ or cause.__context__
    return "answered something unreadable" if call.sent else "could not be reached"


def raise_for_status(answer: Answer, *, subject: str) -> None:
    """Pass a 2xx, else raise what the status means. `subject` says what was asked, without an order's number.

    Raises Unauthorized, NotFound, Conflict, Throttled, Rejected, or Transient: not in doubt only for a 503.
    """
    status, wait = answer.status, retry_after_seconds(answer)
    if 200 <= status < 300:
        return
    said = {"subject": f"{subject} {status}", "detail": answer.text()}
    message = f"{subject} was answered {status}"
    known = {401: errors.Unauthorized, 403: errors.Unauthorized, 404: errors.NotFound, 410: errors.NotFound}
    if kind := known.get(status):
        raise kind(message, **said)
    if status == 409:
        raise errors.Conflict(message, **said)
    if status == 429 or (status == 503 and wait is not None):
        raise errors.Throttled(message, retry_after_seconds=wait, **said)
    if 300 <= status < 500 and status != 408:
        raise errors.Rejected(message, **said)
    raise errors.Transient(message, in_doubt=status != 503, retry_after_seconds=wait, **said)


def retry_after_seconds(answer: Answer) -> float | None:
    """Read Retry-After: seconds, or a date as seconds after the answer's own Date. Nonsense is None.

    Never more than a day, never negative. Our own clock has no say.
    """
    value = answer.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return min(float(value), MAX_RETRY_AFTER_SECONDS)
    try:
        then, now = parsedate_to_datetime(value), parsedate_to_datetime(answer.headers.get("Date", ""))
        return min(max((then - now).total_seconds(), 0.0), MAX_RETRY_AFTER_SECONDS)
    except (ValueError, TypeError, OverflowError):  # a year of 20 digits
        return None
