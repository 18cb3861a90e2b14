"""What the demo found: pure functions from what the shops know and what the management systems hold to numbers."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Self

from sandbox.shop_facts import Facts, PlainCredit, PlainLine

Lines = Counter[tuple[str | None, Decimal, Decimal]]
"""How often there is a line of this SKU, quantity, and price of a piece (in a credit: of all pieces)."""


@dataclass(frozen=True)
class StoredCredit:
    """One credit: of which refund, its taxes, its total and its lines."""

    refund_id: str
    taxes: Decimal
    total: Decimal
    lines: Lines = field(repr=False)

    @classmethod
    def read(cls, credit: Mapping[str, Any]) -> Self:
        """Read a credit of the sandbox's own listing."""
        lines = ((line["sku"], Decimal(line["quantity"]), Decimal(line["amount"])) for line in credit["lines"])
        return cls(credit["reference"], _taxes(credit), Decimal(credit["total"]), Counter(lines))


@dataclass(frozen=True)
class StoredOrder:
    """One order as a management system holds it, with its credits."""

    reference: str
    currency: str
    total: Decimal
    cancelled: bool
    taxes: Decimal
    lines: Lines = field(repr=False)
    credits: tuple[StoredCredit, ...] = field(repr=False)
    created_at: float

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self:
        """Read an order of the sandbox's own listing."""
        lines = Counter(
            (line["sku"], Decimal(line["quantity"]), Decimal(line["unit_price"])) for line in record["lines"]
        )
        return cls(
            record["reference"],
            record["currency"],
            Decimal(record["total"]),
            record["state"] == "cancelled",
            _taxes(record),
            lines,
            tuple(StoredCredit.read(credit) for credit in record["credits"]),
            record["created_at"],
        )


def _taxes(content: Mapping[str, Any]) -> Decimal:
    parts = (*content["lines"], *content["shipping"], *content["fees"])
    return sum((Decimal(tax["amount"]) for part in parts for tax in part["taxes"]), Decimal(0))


@dataclass(frozen=True)
class Comparison:
    """References of orders that are not as they must be."""

    lost: tuple[str, ...] = ()
    """Acknowledged, but not there."""
    duplicated: tuple[str, ...] = ()
    """There once more than once: one entry for each copy too many."""
    mismatched: tuple[str, ...] = ()
    """There, but not as the shop has it; or never sent by this shop."""
    unneeded: tuple[str, ...] = ()
    """Not there, and rightly so: cancelled before it was created."""


def compare(
    expected: Mapping[str, Facts], stored: Iterable[StoredOrder], *, unneeded: Collection[str] = ()
) -> Comparison:
    """Compare one shop's end state, by reference, with its management system's.

    `unneeded` are orders that the ledger says were cancelled before they were created: only those of them that the
    shop has cancelled may be missing.
    """
    found: defaultdict[str, list[StoredOrder]] = defaultdict(list)
    for order in stored:
        found[order.reference].append(order)
    absent = {reference: facts for reference, facts in expected.items() if reference not in found}
    excused = tuple(reference for reference, facts in absent.items() if facts.cancelled and reference in unneeded)
    lost = tuple(reference for reference in absent if reference not in excused)
    duplicated = [reference for reference, orders in found.items() for _ in orders[1:]]
    mismatched = [
        reference
        for reference, orders in found.items()
        if reference not in expected or not all(agrees(expected[reference], order) for order in orders)
    ]
    return Comparison(lost, tuple(duplicated), tuple(mismatched), excused)


def agrees(facts: Facts, order: StoredOrder) -> bool:
    """Whether the order is as the shop has it: currency, total, taxes, cancelled or not, every line and credit."""
    theirs = (order.currency, order.total, order.cancelled, order.lines)
    same = theirs == (facts.currency, facts.total, facts.cancelled, _lines(facts.lines))
    if facts.taxes is not None:
        same = same and order.taxes == facts.taxes
    if facts.credits is not None:
        same = same and sorted(order.credits, key=_refund_id) == sorted(_credits(facts.credits), key=_refund_id)
    return same


def _lines(lines: Iterable[PlainLine]) -> Lines:
    return Counter((line.sku, Decimal(line.quantity), line.price) for line in lines)


def _credits(credits_: Iterable[PlainCredit]) -> Iterator[StoredCredit]:
    for one in credits_:
        yield StoredCredit(one.refund_id, one.taxes, one.total, _lines(one.lines))


def _refund_id(credit: StoredCredit) -> tuple[str, Decimal]:
    return credit.refund_id, credit.total


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile (share from 0 to 100), rounded to a tenth; None of nothing."""
    if not values:
        return None
    rank = min(int(len(values) * share / 100), len(values) - 1)
    return round(sorted(values)[rank], 1)


@dataclass(frozen=True)
class Report:
    """The demo's numbers. Latencies in milliseconds; None when there was nothing to measure."""

    sent: int
    acknowledged: int
    unique_orders: int
    erp_orders: int
    erp_credits: int
    lost: int
    duplicated: int
    mismatched: int
    ack_ms_p50: float | None
    ack_ms_p99: float | None
    sync_ms_p50: float | None
    sync_ms_p99: float | None
    seconds: float

    @property
    def exit_status(self) -> int:
        """0 when nothing is lost, duplicated or mismatched."""
        return 1 if self.lost or self.duplicated or self.mismatched else 0

    def as_dict(self) -> dict[str, int | float | None]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """One tenant's part: what its shop sent and knows, and what its management system holds."""

    sent: int
    acknowledged: int
    latencies_ms: Sequence[float]
    first_acknowledged: Mapping[str, float]
    """By reference, the wall time of an order's first 200."""
    facts: Mapping[str, Facts]
    stored: Sequence[StoredOrder]
    unneeded: Collection[str] = ()

    def comparison(self) -> Comparison:
        """Compare what was acknowledged."""
        expected = {name: facts for name, facts in self.facts.items() if name in self.first_acknowledged}
        return compare(expected, self.stored, unneeded=self.unneeded)

    def sync_ms(self) -> list[float]:
        """For each order, from its first 200 to its create; 0 when the create was even faster."""
        created = {order.reference: order.created_at for order in reversed(self.stored)}
        pairs = ((created[name], at) for name, at in self.first_acknowledged.items() if name in created)
        return [max((made - acknowledged) * 1000, 0.0) for made, acknowledged in pairs]


def make_report(outcomes: Sequence[Outcome], seconds: float) -> Report:
    """Sum the tenants up."""
    compared = [outcome.comparison() for outcome in outcomes]
    acks = [latency for outcome in outcomes for latency in outcome.latencies_ms]
    syncs = [latency for outcome in outcomes for latency in outcome.sync_ms()]
    return Report(
        sent=sum(outcome.sent for outcome in outcomes),
        acknowledged=sum(outcome.acknowledged for outcome in outcomes),
        unique_orders=sum(len(outcome.first_acknowledged) for outcome in outcomes),
        erp_orders=sum(len(outcome.stored) for outcome in outcomes),
        erp_credits=sum(len(order.credits) for outcome in outcomes for order in outcome.stored),
        lost=sum(len(one.lost) for one in compared),
        duplicated=sum(len(one.duplicated) for one in compared),
        mismatched=sum(len(one.mismatched) for one in compared),
        ack_ms_p50=percentile(acks, 50),
        ack_ms_p99=percentile(acks, 99),
        sync_ms_p50=percentile(syncs, 50),
        sync_ms_p99=percentile(syncs, 99),
        seconds=round(seconds, 1),
    )
