"""Everything outside: the management systems, the shops and the broker, all the model's own; they fail on demand.

A management system does with a request what real ones do: answers, refuses, has the effect and loses the answer,
or has the effect only after its caller has gone, at most `SETTLE_SECONDS` later and never after that.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

import orjson

from integrator import errors
from integrator.documents import Order
from integrator.erps.base import Action, ErpAccess, Found, Idempotency, Receipt, Request
from integrator.ledger.records import Rung
from integrator.plans import Rate
from integrator.shops.base import Identity, ShopAccess
from tests.model.baton import Actor, Clock, acting
from tests.support import MemoryErp, Record

SETTLE_SECONDS = 20.0
"""How long after its caller has gone a system may still commit a request."""

CALL_SECONDS = 15.0
"""The total deadline of a call."""


class Does(Enum):
    """What a management system does with its next request."""

    REFUSES_CONNECTION = "refuses the connection"
    CUTS = "cuts the connection and does nothing"
    LOSES_ANSWER = "does it, and the answer is lost"
    DOES_IT_LATE = "answers 502, and does it later"
    IS_SLOW = "does it later, perhaps after the caller's deadline"
    THROTTLES = "asks to wait"
    REJECTS = "refuses it by its own rules"


@dataclass
class Pending:
    """A request that a system has taken and will do until `deadline` (virtual boot seconds) at the latest."""

    request: Request
    deadline: float
    caller: Actor
    key: str
    receipt: Receipt | None = None
    error: errors.IntegratorError | None = None

    @property
    def done(self) -> bool:
        """Whether it has been done."""
        return self.receipt is not None or self.error is not None


@dataclass(frozen=True)
class Effect:
    """One effect on an order. `stray`: written by a claim that had been taken over while its process stood still
    between the lease's check and the first byte, the one thing that the protocol leaves to keys or a last look."""

    reference: str
    key: str
    kind: str
    quantity: int
    stray: bool


@dataclass
class System:
    """One tenant's management system.

    It may reject a request that is repeated while its first copy is still under way, and then do that one. Only a
    stray copy, which comes after any time in which the protocol could have waited for it, stays rejected.
    """

    clock: Clock
    store: MemoryErp
    token: str
    script: deque[Does] = field(default_factory=deque)
    failing_looks: int = 0
    pending: list[Pending] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    rejected: set[tuple[str, bytes]] = field(default_factory=set)
    reused_keys: list[str] = field(default_factory=list)
    _bytes: dict[str, bytes] = field(default_factory=dict)

    def do(self, request: Request, *, stray: bool = False) -> Receipt:
        """Have the effect, unless the key is known."""
        known = self.store.by_key and request.key in self.store.answers
        if stray and not known and (request.key, request.body) in self.rejected:
            raise _rejected()
        if known and self._bytes[request.key] != request.body:
            self.reused_keys.append(request.key)
        receipt = self.store.effect(request)
        if not known:
            self._bytes[request.key] = request.body
            body = orjson.loads(request.body)
            quantity = int(float(body["order"]["lines"][0]["quantity"]))
            self.effects.append(Effect(body["reference"], request.key, body["kind"], quantity, stray))
        return receipt

    def take(self, request: Request, seconds: float, caller: Actor) -> Pending:
        """Take a request, to do it within so many seconds."""
        taken = Pending(request, self.clock.boot + seconds, caller, request.key)
        self.pending.append(taken)
        return taken

    def do_pending(self, number: int) -> None:
        """Do one of the requests taken, now."""
        taken = self.pending.pop(number)
        try:
            taken.receipt = self.do(taken.request)
        except errors.IntegratorError as error:
            taken.error = error

    def do_what_is_due(self) -> None:
        """No request is done after its time: those whose time has come are done now."""
        while due := [number for number, one in enumerate(self.pending) if one.deadline <= self.clock.boot]:
            self.do_pending(due[0])

    def caller_gone(self, caller: Actor) -> None:
        """The caller was killed: what it asked for may still be done for `SETTLE_SECONDS`."""
        for one in self.pending:
            if one.caller is caller:
                one.deadline = min(one.deadline, self.clock.boot + SETTLE_SECONDS)

    def of(self, reference: str) -> list[Record]:
        """The records with a reference."""
        return [record for record in self.store.records.values() if record.reference == reference]


class ModelErp:
    """The connector of those systems. `check` is called before a request's first byte, and says if it is stray."""

    kind: ClassVar[str] = "memory"

    def __init__(self, clock: Clock, systems: dict[str, System], check: Callable[[Request, float], bool]) -> None:
        self.clock, self.systems, self.check = clock, systems, check

    def base_url(self, config: Any) -> str:
        return "http://memory.invalid"

    def idempotency(self, config: Any) -> Idempotency:
        return self.systems[config["system"]].store.idempotency(config)

    def settle_seconds(self, config: Any) -> float:
        return SETTLE_SECONDS

    def deadline_seconds(self, config: Any) -> float:
        return CALL_SECONDS

    def validate(self, config: Any, secrets: Any) -> None: ...

    def prepare(self, action: Action) -> Request:
        return next(iter(self.systems.values())).store.prepare(action)

    def send(self, access: ErpAccess, request: Request) -> Receipt:
        system = self.systems[access.config["system"]]
        guarded_at = self.clock.boot
        assert access.http.guard is not None
        access.http.guard(CALL_SECONDS)
        acting().pause(f"the first byte of {request.key}")
        stray = self.check(request, guarded_at)
        if access.secrets["token"] != system.token:
            raise errors.Unauthorized("the token was refused", subject="token")
        sent_at = self.clock.boot
        receipt = self._answer(system, request, stray)
        acting().pause(f"the answer to {request.key}")
        if self.clock.boot - sent_at > CALL_SECONDS:
            raise _doubt("no answer within the deadline")
        return receipt

    def _answer(  # noqa: C901 - one answer a case
        self, system: System, request: Request, stray: bool
    ) -> Receipt:
        if stray:
            return system.do(request, stray=True)
        match system.script.popleft() if system.script else None:
            case Does.REFUSES_CONNECTION:
                raise errors.Transient("connection refused", subject="connection")
            case Does.CUTS:
                raise _doubt("cut")
            case Does.LOSES_ANSWER:
                system.do(request)
                raise _doubt("answer lost")
            case Does.DOES_IT_LATE:
                system.take(request, SETTLE_SECONDS, acting())
                raise _doubt("502")
            case Does.IS_SLOW:
                return self._slowly(system, request)
            case Does.THROTTLES:
                raise errors.Throttled("too fast", retry_after_seconds=30, subject="429")
            case Does.REJECTS if not (system.store.by_key and request.key in system.store.answers):
                system.rejected.add((request.key, request.body))
                raise _rejected()
        return system.do(request)

    def _slowly(self, system: System, request: Request) -> Receipt:
        taken = system.take(request, CALL_SECONDS + SETTLE_SECONDS, acting())
        until = self.clock.boot + CALL_SECONDS
        acting().wait_until(lambda: taken.done or self.clock.boot >= until, f"waits for {request.key}", at=until)
        if taken.error is not None:
            raise taken.error
        if taken.receipt is None:
            raise _doubt("no answer within the deadline")
        return taken.receipt

    def look_up(self, access: ErpAccess, reference: str) -> list[Found]:
        system = self.systems[access.config["system"]]
        assert access.http.guard is not None
        access.http.guard(CALL_SECONDS)
        acting().pause(f"looks {reference} up")
        if system.failing_looks:
            system.failing_looks -= 1
            raise errors.Transient("the look failed", subject="look")
        found = [
            Found(one.remote_id, frozenset(one.keys), one.cancelled, one.total, tuple(one.credits))
            for one in system.of(reference)
        ]
        acting().pause(f"found {len(found)} of {reference}")
        return found


def _rejected() -> errors.Rejected:
    return errors.Rejected("refused by the system's rules", subject="rules")


def _doubt(what: str) -> errors.Transient:
    return errors.Transient(what, in_doubt=True, subject=what)


@dataclass
class ModelShop:
    """The connector of the shops: each order's true state, by shop and external id."""

    platform: ClassVar[str] = "memory"
    truth: dict[tuple[str, str], Order] = field(default_factory=dict)
    failing_fetches: int = 0

    def rate(self, config: Any) -> Rate:
        return Rate(1_000)

    def base_url(self, config: Any) -> str:
        return "http://memory.invalid"

    def verify(self, headers: Any, body: bytes, secrets: Any) -> None: ...

    def identify(self, headers: Any, body: bytes) -> Identity | None:
        return None

    def is_from(self, headers: Any, config: Any) -> bool:
        return True

    def validate(self, config: Any, secrets: Any) -> None: ...

    def map(self, topic: str, body: bytes) -> Order | None:
        return Order.model_validate_json(body) if topic == "order" else None

    def fetch_order(self, access: ShopAccess, external_id: str) -> Order:
        acting().pause(f"asks for order {external_id}")
        if self.failing_fetches:
            self.failing_fetches -= 1
            raise errors.Transient("the shop failed", subject="shop")
        found = self.truth[access.config["system"], external_id]
        acting().pause(f"got order {external_id}")
        return found


@dataclass(frozen=True)
class Message:
    """What the broker carries: ids only."""

    tenant: str
    sync_id: int


@dataclass
class Broker:
    """A queue that delivers at least once, in any order, or not at all."""

    messages: list[Message] = field(default_factory=list)
    down: bool = False
    answers_lost: int = 0

    def publish(self, rung: list[Rung]) -> list[Rung]:
        """Take one message each; those from the first failure on are reported as failed, as production does."""
        for number, one in enumerate(rung):
            acting().pause(f"rings for {one.sync_id}")
            if self.down:
                return rung[number:]
            self.messages.append(Message(one.tenant, one.sync_id))
            if self.answers_lost:
                self.answers_lost -= 1
                return rung[number:]
        return []

    def depth(self, _queue: Any) -> int:
        """How many messages there are."""
        acting().pause("counts the queue")
        return len(self.messages)
