"""What can go wrong in the sandbox management system, on command and repeatably.

Each fault is a probability, or a count of requests that it strikes next. With a `seed` the same requests in the
same order are struck again.
"""

import random
import threading
import time
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

RequestKind = Literal["create", "update", "credit", "cancel", "find", "read", "health"]
Probability = Annotated[float, Field(ge=0, le=1)]


class Fault(BaseModel):
    """When a fault strikes: with a probability, at most `count` times, on some kinds of request (null: on all).

    Written short as true, false or a probability: `true` is `{"probability": 1}`.
    """

    model_config = ConfigDict(extra="forbid")

    probability: Probability = 1.0
    count: Annotated[int, Field(ge=0)] | None = None
    on: tuple[RequestKind, ...] | None = None


def _short(value: Any) -> Any:
    return {"probability": float(value)} if isinstance(value, bool | int | float) else value


Shortened = Annotated[Fault, BeforeValidator(_short)]
NEVER = Fault(probability=0)


class Settings(BaseModel):
    """All that `POST /_sandbox` can set; fields that it does not name stay as they are."""

    model_config = ConfigDict(extra="forbid")

    seed: int | None = None
    """Begins the random numbers anew."""
    latency_ms: Annotated[float, Field(ge=0, le=60_000)] = 0
    """Every request takes so much longer, an effect's before the effect."""
    clock_seconds: float = 0
    """Its clock is so much ahead, as every answer's Date shows."""
    retry_after_seconds: Annotated[float, Field(ge=0)] | None = 1
    """The Retry-After of 429 and 503; null sends none."""
    drip_ms: Annotated[float, Field(ge=0)] = 100
    """Between two bytes of an answer that drips."""
    late_commit_min_seconds: Annotated[float, Field(ge=0, le=600)] = 0
    late_commit_max_seconds: Annotated[float, Field(ge=0, le=600)] = 5
    """A late effect comes at a random time between these."""

    forget_keys: bool = False
    """Keys are neither looked at nor remembered; orders still show them."""
    keep_grants: bool = False
    """When each request was granted and when it came is kept, for `GET /_sandbox/grants`."""
    refuse_token: bool = False
    """Every request is answered 401."""
    down: bool = False
    """Every connection is cut at its next request."""
    unknown_skus: frozenset[str] = frozenset()
    unknown_taxes: frozenset[str] = frozenset()
    unknown_payments: frozenset[str] = frozenset()
    """Orders that name one of these are refused with 422."""
    books_closed: bool = False
    """Orders and credits are refused with 422 `books_closed`, a rule of its own."""

    error_429: Shortened = NEVER
    error_500: Shortened = NEVER
    error_503: Shortened = NEVER
    drop_before_effect: Shortened = NEVER
    """The connection is cut, and nothing is done."""
    late_commit: Shortened = NEVER
    """The connection is cut, and the effect comes later."""
    error_500_after_effect: Shortened = NEVER
    error_504_after_effect: Shortened = NEVER
    drop_after_effect: Shortened = NEVER
    """The effect comes, and then the connection is cut."""
    drip: Shortened = NEVER
    """The answer goes out byte by byte."""


class Faults:
    """The settings in force, the dice, and what was counted. For all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dice = random.Random()
        self.settings = Settings()
        self.requests: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.grants: list[tuple[str, int]] = []

    def note_grant(self, said: str | None) -> None:
        """Keep what a request said of its grant, and when it came, in µs since 1970."""
        if self.settings.keep_grants and said:
            self.grants.append((said, time.time_ns() // 1_000))

    def change(self, changes: Any) -> None:
        """Set some fields, given by name. Raises ValueError (pydantic's too), and then nothing has changed."""
        if not isinstance(changes, dict):
            raise ValueError("settings are a JSON object")  # noqa: TRY004 - it came from outside
        with self._lock:
            self.settings = Settings.model_validate({**self.settings.model_dump(), **changes})
            if changes.get("seed") is not None:
                self._dice.seed(self.settings.seed)

    def reset(self) -> None:
        """No faults, and all counts at zero. Orders and keys stay."""
        with self._lock:
            self.settings = Settings()
            for counter in (self.requests, self.answers, self.struck):
                counter.clear()
            self.grants.clear()

    def count(self, counter: Counter[str], name: str) -> None:
        """Add one."""
        with self._lock:
            counter[name] += 1

    def strikes(self, name: str, kind: RequestKind) -> bool:
        """Whether the fault strikes this request; its count goes down then."""
        with self._lock:
            fault: Fault = getattr(self.settings, name)
            if fault.count == 0 or (fault.on is not None and kind not in fault.on):
                return False
            if self._dice.random() >= fault.probability:
                return False
            if fault.count is not None:
                fewer = fault.model_copy(update={"count": fault.count - 1})
                self.settings = self.settings.model_copy(update={name: fewer})
            self.struck[name] += 1
            return True

    def late_seconds(self) -> float:
        """How long a late effect waits."""
        with self._lock:
            return self._dice.uniform(self.settings.late_commit_min_seconds, self.settings.late_commit_max_seconds)

    def report(self) -> dict[str, Any]:
        """What `GET /_sandbox` answers."""
        with self._lock:
            return {
                "settings": self.settings.model_dump(mode="json"),
                "requests": dict(self.requests),
                "answers": dict(self.answers),
                "faults": dict(self.struck),
            }
