"""The one taxonomy of failures: what the ledger does with each, how they group, and what a person can do.

An error carries three texts with different readers:

- `message`: our own sentence, made of identifiers, codes and amounts only. It is logged (`reason` of `run_ended`,
  with whatever looks like an e-mail address hidden), so a word of the other side stands in it only if it has the
  form of one of these: an answer's text belongs to `detail`.
- `detail`: what the other side said. It may hold personal data, so it goes to the ledger and nowhere else.
- `remedy`: what a person does now.

`fingerprint` groups errors that one fix will release together, so it is made of the class and the `subject`
(a SKU, a field, a status), never of an order's number.
"""

import hashlib
from datetime import datetime
from enum import StrEnum
from typing import ClassVar

DETAIL_LIMIT = 2_000
"""Characters of the other side's answer that are kept: enough to act on, little enough to page through."""


class Side(StrEnum):
    """Whose failure it is: only the management system's answers move its gate and use attempts up."""

    ERP = "erp"
    SHOP = "shop"
    HERE = "here"


class IntegratorError(Exception):
    """Anything that stops one run of a sync.

    Raise one of the subclasses; each says in its docstring when.
    """

    remedy: ClassVar[str] = "Look at what was tried: `celery -A tasks syncs show`."

    def __init__(self, message: str, *, subject: str = "", detail: str = "", remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.subject = subject
        self.detail = detail[:DETAIL_LIMIT]
        self.advice = remedy or self.remedy
        self.side = Side.ERP
        self.burns_attempt = True
        self.on_trial = False
        """Whether it was the one call by which a half-open breaker was to find out."""

    @property
    def error_class(self) -> str:
        """The name that the ledger, the logs and Flower show."""
        return type(self).__name__

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits, equal for errors that one fix releases together."""
        text = f"{self.error_class}:{self.subject}"
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]


class Transient(IntegratorError):
    """The other side or the way to it failed; the same request may succeed later.

    `in_doubt` is True when the request may have had its effect: a timeout or cut after the first byte, a 500,
    502 or 504. A step that ends so is settled before anything new is planned. `retry_after_seconds` is what it
    asked for besides, None when it named no time: the sync is not tried again before.
    """

    remedy = "Nothing: it is tried again by itself. If it lasts, check that the system is up and reachable."

    def __init__(
        self,
        message: str,
        *,
        in_doubt: bool = False,
        retry_after_seconds: float | None = None,
        subject: str = "",
        detail: str = "",
    ) -> None:
        super().__init__(message, subject=subject, detail=detail)
        self.in_doubt = in_doubt
        self.retry_after_seconds = retry_after_seconds

    def without_doubt(self) -> "Transient":
        """The same of a call that only reads, which has no effect to be in doubt about."""
        return Transient(
            self.message, retry_after_seconds=self.retry_after_seconds, subject=self.subject, detail=self.detail
        )


class Throttled(IntegratorError):
    """The other side asked us to come back later (429, or 503 with Retry-After). Nothing was done.

    `retry_after_seconds` is what it asked for, or None when it named no time.
    """

    remedy = (
        "Nothing: work waits for the time that the system asked for. If it lasts, ask for a higher limit there; "
        "what is held by then is released with `celery -A tasks syncs requeue`."
    )

    def __init__(
        self, message: str, *, retry_after_seconds: float | None = None, subject: str = "", detail: str = ""
    ) -> None:
        super().__init__(message, subject=subject, detail=detail)
        self.retry_after_seconds = retry_after_seconds


class Rejected(IntegratorError):
    """The management system's own rules refuse the request, and will again. Nothing was done."""

    remedy = (
        "Read the answer with `celery -A tasks syncs show --detail`, correct the record there or the order in the "
        "shop, then `celery -A tasks syncs requeue`."
    )


class Unmapped(IntegratorError):
    """Something of the document has no counterpart: an unreadable body, a SKU, a tax, a payment method."""

    remedy = (
        "Add what is named to the management system, or correct the order in the shop; then release all such "
        "syncs with `celery -A tasks syncs requeue --fingerprint`."
    )


class TotalMismatch(IntegratorError):
    """The order does not add up, or the management system's total differs from the shop's."""

    remedy = (
        "Compare the amounts named; correct the order where it is wrong, or the tenant's tolerance; then "
        "`celery -A tasks syncs requeue`."
    )


class Unauthorized(IntegratorError):
    """The credentials were refused. The gate shuts, and asks again each 15 minutes or when new ones are stored."""

    remedy = "Store new credentials with `flask --app web tenants apply`; the backlog then moves by itself."


class NotFound(IntegratorError):
    """A record that we made, or were told of, is not there any more. It is never made again silently."""

    remedy = (
        "Find out who removed the record, and put it back; then `celery -A tasks syncs requeue`. If it is to stay "
        "away, leave the sync as it is: nothing makes the record again."
    )


class Conflict(IntegratorError):
    """Two truths: two records with one reference, or a state that our plan can't leave."""

    remedy = "Decide which of the two named is true, and correct the other; then `celery -A tasks syncs requeue`."


class Bug(IntegratorError):
    """Our own code failed: the class of an exception that nobody expected, never its text."""

    remedy = (
        "Report the fingerprint and the version; the traceback is in the log under the correlation id. Once a "
        "version that mends it runs, `celery -A tasks syncs requeue`."
    )


class NotStarted(IntegratorError):
    """The call would not have ended before its lease, so its first byte was never sent. Nothing was done.

    The run ends and the sync goes on later; no attempt is burnt.
    """

    remedy = "Nothing: the work is taken up again by itself."


class RateLimited(NotStarted):
    """The rate of the tenant's plan, or of the shop's platform, has no place for a call in the next moment.

    Nothing was sent, and no attempt is burnt: work goes on `wait_seconds` later. `plan_version` is that of the
    plan that said so, since a newer one may say otherwise; None of a platform.
    """

    remedy = "Nothing: work goes on at the rate of the plan, which `celery -A tasks plan` changes."

    def __init__(self, message: str, *, wait_seconds: float = 0.0, plan_version: int | None = None) -> None:
        super().__init__(message, subject="rate")
        self.wait_seconds = wait_seconds
        self.plan_version = plan_version


class QuotaUsedUp(NotStarted):
    """The plan allows no further call on this day. Nothing was sent, and no attempt is burnt.

    `resumes_at` is when the tenant's day turns; `for_all`: not even orders have a share left. `plan_version` is
    that of the plan that said so, since a newer one may say otherwise.
    """

    remedy = "Nothing: work resumes by itself at that time. `celery -A tasks plan` raises the quota at once."

    def __init__(
        self, message: str, *, resumes_at: datetime | None = None, for_all: bool = True, plan_version: int = 0
    ) -> None:
        super().__init__(message, subject="quota")
        self.resumes_at = resumes_at
        self.for_all = for_all
        self.plan_version = plan_version


class Settling(IntegratorError):
    """A step's outcome can't be told before `not_before`, when its reference is looked up again (PROTOCOL S2).

    `cause` is the failure that this very run observed, which burns an attempt; a look alone burns none.
    """

    remedy = "Nothing: the reference is looked up again by itself at that time."

    def __init__(self, message: str, *, not_before: datetime, cause: "Transient | None" = None) -> None:
        super().__init__(message)
        self.not_before = not_before
        self.cause = cause


class GateShut(IntegratorError):
    """The gate of this management system shut while the sync was running (PROTOCOL S5). Nothing more is sent."""

    remedy = "Nothing: the work goes on when the gate opens; `celery -A tasks resume` ends a pause."


class LeaseLost(IntegratorError):
    """A fenced write found another claim: somebody else holds the sync now. Stop at once, write nothing."""

    remedy = "Nothing: the holder of the newer claim does the work."
