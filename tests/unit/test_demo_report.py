"""The demo's numbers, as pure functions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from sandbox.demo_report import (
    Comparison,
    Outcome,
    StoredCredit,
    StoredOrder,
    agrees,
    compare,
    make_report,
    percentile,
)
from sandbox.shop_facts import Facts, PlainCredit, PlainLine

MUG, PEN = PlainLine("MUG-S", 2, Decimal("12.90")), PlainLine("PEN-S", 1, Decimal("0.99"))
TIP = PlainLine(None, 1, Decimal("3.00"))
CREDITS = (
    PlainCredit("88", (PlainLine("MUG-S", 1, Decimal("12.90")),), Decimal("0.40"), Decimal("11.30")),
    PlainCredit("77", (), Decimal(0), Decimal("2.00")),
)
FACTS = {
    "shop/1": Facts("1", "EUR", (MUG, PEN), Decimal("26.79"), False, Decimal("2.40"), CREDITS),
    "shop/2": Facts("2", "USD", (TIP, MUG), Decimal("28.80"), True, Decimal(0), CREDITS[:1]),
    "shop/3": Facts("3", "EUR", (PEN, PEN), Decimal("1.98"), False, Decimal(0), ()),
}


def taxed(amount: Decimal | None) -> list[dict[str, str]]:
    return [{"title": "VAT", "amount": f"{amount:f}"}] if amount else []


def stored_credit(credit: PlainCredit) -> Mapping[str, Any]:
    """What the sandbox's listing says of a credit."""
    lines: list[dict[str, Any]] = [
        {"sku": line.sku, "quantity": f"{line.quantity}.0", "amount": f"{line.price}0", "taxes": []}
        for line in credit.lines
    ]
    fees = [{"title": "Kept", "amount": "-2", "taxes": taxed(credit.taxes)}]
    return {
        "reference": credit.refund_id,
        "total": f"{credit.total}0",
        "lines": lines,
        "shipping": [],
        "fees": fees,
    }


def record(reference: str, facts: Facts, **other: Any) -> Mapping[str, Any]:
    """What the sandbox's listing says of an order: amounts as texts, lines in another order."""
    lines: list[dict[str, Any]] = [
        {"sku": line.sku, "quantity": f"{line.quantity}.0", "unit_price": f"{line.price:f}00", "taxes": []}
        for line in reversed(facts.lines)
    ]
    shipping = [{"title": "Parcel", "taxes": taxed(facts.taxes)}]
    credits_ = [stored_credit(credit) for credit in reversed(facts.credits or ())]
    state = "cancelled" if facts.cancelled else "open"
    known = {"reference": reference, "currency": facts.currency, "total": f"{facts.total:f}"}
    parts = {"lines": lines, "shipping": shipping, "fees": [], "credits": credits_}
    return {**known, "state": state, **parts, "created_at": 100.5, **other}


STORED = [StoredOrder.read(record(reference, facts)) for reference, facts in FACTS.items()]


CREDIT = STORED[1].credits[0]
WRONG_CREDITS = {
    "refund": replace(CREDIT, refund_id="99"),
    "total": replace(CREDIT, total=Decimal("11.31")),
    "taxes": replace(CREDIT, taxes=Decimal("0.41")),
    "line": replace(CREDIT, lines=Counter({("MUG-S", Decimal(2), Decimal("12.90")): 1})),
}


def changed(at: int, **other: Any) -> list[StoredOrder]:
    return [replace(order, **other) if n == at else order for n, order in enumerate(STORED)]


def test_given_all_orders_as_they_must_be_when_compared_then_nothing_is_wrong() -> None:
    assert compare(FACTS, STORED) == Comparison()


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        pytest.param(STORED[1:], Comparison(lost=("shop/1",)), id="missing"),
        pytest.param([*STORED, STORED[0]], Comparison(duplicated=("shop/1",)), id="doubled"),
        pytest.param([*STORED, STORED[0], STORED[0]], Comparison(duplicated=("shop/1",) * 2), id="three times"),
        pytest.param(changed(0, total=Decimal("26.78")), Comparison(mismatched=("shop/1",)), id="total"),
        pytest.param(changed(0, currency="USD"), Comparison(mismatched=("shop/1",)), id="currency"),
        pytest.param(changed(0, taxes=Decimal("2.41")), Comparison(mismatched=("shop/1",)), id="taxes"),
        pytest.param(changed(0, credits=()), Comparison(mismatched=("shop/1",)), id="no credits"),
        pytest.param(
            changed(0, credits=STORED[0].credits[:1]), Comparison(mismatched=("shop/1",)), id="a credit is missing"
        ),
        pytest.param(
            changed(1, credits=STORED[1].credits * 2), Comparison(mismatched=("shop/2",)), id="a doubled credit"
        ),
        pytest.param(
            changed(2, credits=STORED[1].credits), Comparison(mismatched=("shop/3",)), id="a credit of no refund"
        ),
        *(
            pytest.param(changed(1, credits=(wrong,)), Comparison(mismatched=("shop/2",)), id=f"a credit's {name}")
            for name, wrong in WRONG_CREDITS.items()
        ),
        pytest.param(changed(1, cancelled=False), Comparison(mismatched=("shop/2",)), id="not cancelled"),
        pytest.param(changed(0, cancelled=True), Comparison(mismatched=("shop/1",)), id="cancelled"),
        pytest.param(
            changed(2, lines=Counter({("PEN-S", Decimal(1), Decimal("0.99")): 1})),
            Comparison(mismatched=("shop/3",)),
            id="one of two equal lines",
        ),
        pytest.param(
            changed(2, lines=Counter({("PEN-S", Decimal(1), Decimal("0.98")): 2})),
            Comparison(mismatched=("shop/3",)),
            id="price",
        ),
        pytest.param(
            changed(2, lines=Counter({("PEN-M", Decimal(1), Decimal("0.99")): 2})),
            Comparison(mismatched=("shop/3",)),
            id="sku",
        ),
        pytest.param(
            [*STORED, replace(STORED[0], reference="shop/9")],
            Comparison(mismatched=("shop/9",)),
            id="somebody else's order",
        ),
        pytest.param(
            [*STORED, replace(STORED[0], total=Decimal(1))],
            Comparison(duplicated=("shop/1",), mismatched=("shop/1",)),
            id="doubled and wrong",
        ),
    ],
)
def test_given_one_thing_wrong_when_compared_then_it_is_named(
    stored: Sequence[StoredOrder], expected: Comparison
) -> None:
    assert compare(FACTS, stored) == expected


def test_given_a_shop_that_does_not_count_taxes_or_refunds_when_compared_then_they_may_be_anything() -> None:
    facts = replace(FACTS["shop/1"], taxes=None, credits=None)
    assert agrees(facts, STORED[0])
    assert agrees(facts, replace(STORED[0], taxes=Decimal(9), credits=()))


def test_given_a_credit_when_read_then_amounts_are_numbers_whatever_their_form() -> None:
    assert StoredCredit.read(stored_credit(CREDITS[0])) == StoredCredit(
        "88", Decimal("0.4"), Decimal("11.3"), Counter({("MUG-S", Decimal(1), Decimal("12.9")): 1})
    )


@pytest.mark.parametrize(
    ("absent", "unneeded", "expected"),
    [
        (1, {"shop/2"}, Comparison(unneeded=("shop/2",))),
        (1, set(), Comparison(lost=("shop/2",))),
        (0, {"shop/1"}, Comparison(lost=("shop/1",))),
    ],
    ids=["cancelled and never needed", "cancelled, but the ledger made it", "open in the shop"],
)
def test_given_an_absent_order_when_compared_then_only_a_cancelled_one_that_was_never_needed_is_not_lost(
    absent: int, unneeded: set[str], expected: Comparison
) -> None:
    stored = [order for n, order in enumerate(STORED) if n != absent]
    assert compare(FACTS, stored, unneeded=unneeded) == expected


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 50, None),
        ([7.04], 50, 7.0),
        ([7.06], 99, 7.1),
        ([3, 1, 2], 50, 2),
        (range(100), 50, 50),
        (range(100), 99, 99),
        (range(1000), 99, 990),
        (range(10), 100, 9),
    ],
)
def test_given_values_when_a_percentile_is_taken_then_it_is_one_of_them(
    values: Sequence[float], share: float, expected: float | None
) -> None:
    assert percentile(values, share) == expected


def outcome(stored: Sequence[StoredOrder] = STORED, **other: Any) -> Outcome:
    first = {"shop/1": 100.0, "shop/2": 100.25, "shop/3": 101.0}
    return replace(Outcome(7, 6, [1.0, 2.0, 3.0], first, FACTS, stored), **other)


def test_given_two_tenants_with_equal_orders_when_reported_then_they_are_summed_and_not_mixed() -> None:
    report = make_report([outcome(), outcome(STORED[1:])], 12.34)

    assert report.as_dict() == {
        "sent": 14,
        "acknowledged": 12,
        "unique_orders": 6,
        "erp_orders": 5,
        "erp_credits": 4,
        "lost": 1,
        "duplicated": 0,
        "mismatched": 0,
        "ack_ms_p50": 2.0,
        "ack_ms_p99": 3.0,
        "sync_ms_p50": 250.0,
        "sync_ms_p99": 500.0,
        "seconds": 12.3,
    }


def test_given_an_order_that_was_never_acknowledged_when_reported_then_it_is_not_lost() -> None:
    report = make_report([outcome(STORED[:2], first_acknowledged={"shop/1": 100.0, "shop/2": 100.0})], 1)
    assert (report.unique_orders, report.lost) == (2, 0)


def test_given_a_doubled_order_when_its_time_is_taken_then_the_first_create_counts() -> None:
    late = replace(STORED[0], created_at=900.0)
    assert max(outcome([*STORED, late]).sync_ms()) == 500.0


@pytest.mark.parametrize(
    ("stored", "status"),
    [
        (STORED, 0),
        (STORED[1:], 1),
        ([*STORED, STORED[0]], 1),
        (changed(0, total=Decimal(1)), 1),
    ],
    ids=["right", "lost", "duplicated", "mismatched"],
)
def test_given_an_outcome_when_reported_then_the_exit_status_tells(
    stored: Sequence[StoredOrder], status: int
) -> None:
    assert make_report([outcome(stored)], 1).exit_status == status


def test_given_nothing_at_all_when_reported_then_there_are_no_latencies() -> None:
    report = make_report([], 0)
    assert (report.ack_ms_p50, report.sync_ms_p99, report.exit_status) == (None, None, 0)
