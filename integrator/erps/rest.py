"""The connector to a management system that speaks our own HTTP contract.

The contract is docs/reference/management-system.openapi.yaml: whoever develops a system in-house writes their
side from it. `ErpAccess.http` is made with the system's `url` as its base; `send` and `look_up` add the token.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ValidationError

from integrator import errors
from integrator.erps.base import Action, ErpAccess, Found, Idempotency, Receipt, Request, StepKind
from integrator.erps.rest_order import cancel_content, credit_content, order_content, sendable
from integrator.erps.rest_record import AMOUNT, ID, Record, Records
from integrator.http import Answer, raise_for_status, retry_after_seconds

SETTLE_SECONDS = 30.0
DEADLINE_SECONDS = 15.0
MAX_DEADLINE_SECONDS = 18.0
"""A call ends before its lease, which is 30 s."""
MAX_SETTLE_SECONDS = 3_600.0
NO_ORDER = "check/0"
"""A reference that no order has: it begins with no shop's slug and ends with no order's id."""

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_UNMAPPED = {"unknown_sku": "sku", "unknown_tax": "tax", "unknown_payment": "payment"}
_NAMED = {
    "code": re.compile(r"[a-z0-9_]{1,40}"),
    "total": AMOUNT,
    "currency": re.compile(r"[A-Z]{3}"),
    **dict.fromkeys(_UNMAPPED.values(), re.compile(r".{1,100}")),
}
"""A problem's members that may be named in a message, which is logged: identifiers, codes and amounts."""


class RestErp:
    """The contract's connector. It holds no state: threads share one."""

    kind: ClassVar[str] = "rest"

    def base_url(self, config: Mapping[str, Any]) -> str:
        """`url` of the configuration."""
        return str(config["url"])

    def idempotency(self, config: Mapping[str, Any]) -> Idempotency:
        """By key, unless the configuration says that the system does not remember keys."""
        return Idempotency(config.get("idempotency", Idempotency.KEY))

    def settle_seconds(self, config: Mapping[str, Any]) -> float:
        """`settle_seconds` of the configuration, or 30."""
        return float(config.get("settle_seconds", SETTLE_SECONDS))

    def deadline_seconds(self, config: Mapping[str, Any]) -> float:
        """`deadline_seconds` of the configuration, or 15."""
        return float(config.get("deadline_seconds", DEADLINE_SECONDS))

    def prepare(self, action: Action) -> Request:
        """Write the request: JSON with sorted keys, the same bytes for the same action.

        Raises Unmapped for an amount that is not in the order's currency, and for a key that a header can't
        carry.
        """
        if len(action.key) > 255 or not _VISIBLE.fullmatch(action.key):
            raise errors.Unmapped("the step's key is not visible ASCII of at most 255 characters", subject="key")
        if action.kind is StepKind.CREATE:
            return _request("POST", "/orders", action.key, order_content(action))
        path = f"/orders/{_known_id(action.remote_id)}"
        if action.kind is StepKind.UPDATE:
            return _request("PUT", path, action.key, order_content(action))
        if action.kind is StepKind.CREDIT:
            return _request("POST", f"{path}/credits", action.key, credit_content(action))
        return _request("POST", f"{path}/cancel", action.key, cancel_content(action))

    def send(self, access: ErpAccess, request: Request) -> Receipt:
        """Have the effect, and read the system's own total.

        A success that does not say so in the contract's words is Transient and in doubt.
        """
        headers = {**_authorization(access), "Idempotency-Key": request.key, "Content-Type": "application/json"}
        answer = access.http.request(request.method, request.path, headers=headers, body=request.body)
        asked = re.sub(r"(?<=/orders/)[^/]+", "{id}", f"{request.method} {request.path}")
        _raise_for_answer(answer, asked=asked, sent=request.body)
        receipt = _confirmed(_read(Record, answer), request)
        if receipt is None:
            raise _not_of_the_contract(answer)
        return receipt

    def look_up(self, access: ErpAccess, reference: str) -> list[Found]:
        """Every order that carries the reference, the cancelled ones too."""
        reference = sendable(reference)
        answer = access.http.request(
            "GET", "/orders", headers=_authorization(access), params={"reference": reference}
        )
        _raise_for_answer(answer, asked="GET /orders")
        records = _read(Records, answer).orders
        if any(record.reference != reference for record in records):
            raise _not_of_the_contract(answer)
        return [record.found() for record in records]

    def check(self, access: ErpAccess) -> datetime | None:
        """Ask whether orders can be kept now, and look up a reference that no order has."""
        answer = access.http.request("GET", "/health", headers=_authorization(access))
        _raise_for_answer(answer, asked="GET /health")
        self.look_up(access, NO_ORDER)
        return answer.date

    def validate(self, config: Mapping[str, Any], secrets: Mapping[str, Any]) -> None:
        """Check names and values. Raises ValueError with a sentence for people."""
        _check_names("configuration", config, ("url", "idempotency", "settle_seconds", "deadline_seconds"))
        _check_names("secrets", secrets, ("token",))
        _check_url(config.get("url"))
        if config.get("idempotency", Idempotency.KEY) not in list(Idempotency):
            raise ValueError('"idempotency" must be "key" (the system remembers keys) or "lookup" (it does not)')
        _check_seconds("settle_seconds", config.get("settle_seconds", SETTLE_SECONDS), 0, MAX_SETTLE_SECONDS)
        _check_seconds(
            "deadline_seconds", config.get("deadline_seconds", DEADLINE_SECONDS), 1, MAX_DEADLINE_SECONDS
        )
        if not isinstance(token := secrets.get("token"), str) or not _VISIBLE.fullmatch(token):
            raise ValueError('the secret "token" is missing, or is not visible ASCII without spaces')


def _request(method: str, path: str, key: str, content: Mapping[str, Any]) -> Request:
    return Request(method, path, key, orjson.dumps(sendable(content), option=orjson.OPT_SORT_KEYS))


def _known_id(remote_id: str | None) -> str:
    if remote_id is None or not ID.fullmatch(remote_id):
        raise ValueError("an update, a credit or a cancellation needs the id that the system gave")
    return remote_id


def _authorization(access: ErpAccess) -> dict[str, str]:
    return {"Authorization": f"Bearer {access.secrets['token']}"}


_Content = TypeVar("_Content", bound=BaseModel)


def _read(model: type[_Content], answer: Answer) -> _Content:
    try:
        return model.model_validate(answer.json())
    except ValidationError:
        raise _not_of_the_contract(answer) from None


def _not_of_the_contract(answer: Answer) -> errors.Transient:
    return errors.Transient(
        f"the answer {answer.status} is not of the contract",
        in_doubt=True,
        subject="not of the contract",
        detail=answer.text(),
    )


def _confirmed(record: Record, request: Request) -> Receipt | None:
    """What the record says of the request's effect; None when it is another record, or does not show it."""
    wanted_id, *action = request.path.split("/")[2:] or [record.id]
    reference = record.reference if action else orjson.loads(request.body)["reference"]
    if request.key not in record.applied_keys or record.id != wanted_id or record.reference != reference:
        return None
    if action == ["credits"]:
        # The newest is this request's: a system that forgets keys may hold an earlier one.
        made = [credit for credit in record.credits if credit.key == request.key][-1:]
        return Receipt(made[0].id, record.money(made[0].total)) if made else None
    if action == ["cancel"] and record.state != "cancelled":
        return None
    return Receipt(record.id, record.money(record.total))


def _raise_for_answer(answer: Answer, *, asked: str, sent: bytes = b"{}") -> None:
    """Raise what a problem's `code` says more exactly than its status; else what the status says."""
    problem = _problem(answer)
    code = problem.get("code", "")
    said = {"detail": answer.text()}
    if answer.status == 409 and code == "in_progress":
        raise errors.Transient(
            f"{asked}: the same key is still being worked on",
            in_doubt=True,
            retry_after_seconds=retry_after_seconds(answer),
            subject=code,
            **said,
        )
    if answer.status == 422 and code == "total_mismatch":
        its = f"{problem.get('total', 'another amount')} {problem.get('currency', '')}".strip()
        ours = orjson.loads(sent).get("total", "not given")
        raise errors.TotalMismatch(
            f"{asked}: the system's total is {its}, the shop's {ours}", subject="system's total", **said
        )
    if answer.status == 422 and code in _UNMAPPED:
        subject = f"{_UNMAPPED[code]} {problem.get(_UNMAPPED[code], '')}".strip()
        raise errors.Unmapped(f"{asked}: the system does not know the {subject}", subject=subject, **said)
    raise_for_status(answer, subject=f"{asked} {code}".strip())


def _problem(answer: Answer) -> dict[str, str]:
    """The problem's members that may be named in a message, as far as they are readable. None of a success."""
    try:
        content = answer.json() if answer.status >= 400 else None
    except errors.Transient:
        content = None
    members = content.items() if isinstance(content, dict) else ()
    return {
        name: value
        for name, value in members
        if name in _NAMED and isinstance(value, str) and value.isprintable() and _NAMED[name].fullmatch(value)
    }


def _check_names(what: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"unknown in the {what}: {', '.join(unknown)}; known are {', '.join(known)}")


def _check_url(url: Any) -> None:
    try:
        parts = urlsplit(url if isinstance(url, str) and _VISIBLE.fullmatch(url) else "")
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError('"url" must be the address of the system, like "https://erp.example/api"')
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise ValueError('"url" must hold no user, password, query or fragment; the token is a secret')


def _check_seconds(name: str, value: Any, least: float, most: float) -> None:
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not number or not least <= float(value) <= most:
        raise ValueError(f'"{name}" must be a number of seconds from {least:g} to {most:g}')
