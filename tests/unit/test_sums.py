"""Whether orders add up: exactly, with zeros, wide numbers, and a reason that names what is off."""

from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrator.documents import (
    Fee,
    Line,
    Money,
    Order,
    PaymentState,
    Refund,
    RefundLine,
    ShippingLine,
    StatedTotals,
    Tax,
)
from integrator.documents.sums import breakdown, check, check_refunds, refund_breakdown
from integrator.errors import TotalMismatch

CENTS = st.integers(min_value=0, max_value=10**9).map(lambda cents: Decimal(cents).scaleb(-2))


def eur(amount: str | Decimal, currency: str = "EUR") -> Money:
    return Money(amount=Decimal(amount), currency=currency)


def tax(amount: str | Decimal) -> Tax:
    return Tax(title="VAT", amount=eur(amount))


def line(quantity: str, price: str, discount: str = "0", *taxes: str) -> Line:
    return Line(
        external_id="1",
        title="Mug",
        quantity=Decimal(quantity),
        unit_price=eur(price),
        discount=eur(discount),
        taxes=tuple(tax(amount) for amount in taxes),
    )


def order(total: str | Decimal, *lines: Line, **parts: object) -> Order:
    made = Order(
        external_id="1",
        number="#1",
        currency="EUR",
        taxes_included=False,
        lines=lines,
        total=eur(total),
        payment_state=PaymentState.PAID,
    )
    return made.model_copy(update=parts)


SHIPPING = (ShippingLine(title="Standard", price=eur("5"), discount=eur("1"), taxes=(tax("0.84"),)),)
FEES = (Fee(title="Duties", amount=eur("3"), taxes=(tax("0.63"),)),)


@pytest.mark.parametrize(
    "adding_up",
    [
        pytest.param(order("0"), id="nothing at all"),
        pytest.param(order("20", line("2", "10")), id="a line"),
        pytest.param(order("0", line("0", "10")), id="none of it"),
        pytest.param(order("0", line("3", "0")), id="for free"),
        pytest.param(order("0.3", line("1", "0.1"), line("1", "0.2")), id="what floats get wrong"),
        pytest.param(order("21.18", line("2", "10", "2.5", "3.68")), id="discount and tax"),
        pytest.param(order("17.5", line("2", "10", "2.5", "3.04"), taxes_included=True), id="tax included"),
        pytest.param(order("4.84", shipping=SHIPPING), id="shipping"),
        pytest.param(order("3.63", fees=FEES), id="fees"),
        pytest.param(order("4", shipping=SHIPPING, taxes_included=True), id="tax included in shipping"),
        pytest.param(order("3", fees=FEES, taxes_included=True), id="tax included in fees"),
        pytest.param(order("18.47", line("1", "10"), shipping=SHIPPING, fees=FEES), id="all of it"),
        pytest.param(order("-0.02", fees=(Fee(title="Rounding", amount=eur("-0.02")),)), id="a negative fee"),
    ],
)
def test_given_an_order_that_adds_up_when_checked_then_its_breakdown(adding_up: Order) -> None:
    parts = check(adding_up)
    assert parts.expected == parts.total == adding_up.total.amount
    assert parts.difference == 0


def test_given_every_part_when_broken_down_then_each_amount_is_told() -> None:
    parts = breakdown(order("1", line("2", "10", "2.5", "3.68"), shipping=SHIPPING, fees=FEES))
    told = (parts.lines, parts.discounts, parts.taxes, parts.shipping, parts.fees, parts.total)
    assert told == tuple(map(Decimal, ("20", "3.5", "5.15", "5", "3", "1")))


@pytest.mark.parametrize(
    ("total", "tolerance", "accepted"),
    [
        ("10.00", "0", True),
        ("10.01", "0", False),
        ("9.99", "0", False),
        ("10.01", "0.01", True),
        ("9.99", "0.01", True),
        ("10.011", "0.01", False),
        ("9.989", "0.01", False),
    ],
)
def test_given_a_tolerance_when_checked_then_the_difference_may_reach_and_not_pass_it(
    total: str, tolerance: str, accepted: bool
) -> None:
    for allowed in (Decimal(tolerance), eur(tolerance)):
        if accepted:
            check(order(total, line("1", "10")), allowed)
        else:
            with pytest.raises(TotalMismatch):
                check(order(total, line("1", "10")), allowed)


def test_given_a_tolerance_of_another_currency_when_checked_then_it_counts_as_none() -> None:
    with pytest.raises(TotalMismatch):
        check(order("10.01", line("1", "10")), eur("5", "USD"))


def test_given_a_negative_tolerance_when_checked_then_it_is_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        check(order("10", line("1", "10")), Decimal(-1))


def test_given_nothing_stated_when_off_then_the_total_is_named_with_the_difference() -> None:
    with pytest.raises(TotalMismatch) as caught:
        check(order("12", line("1", "10")))
    assert caught.value.subject == "total"
    assert "total 12 (off by -2)" in caught.value.message
    assert "lines 10 - discounts 0 + taxes 0 + shipping 0 + fees 0 = 10 EUR" in caught.value.message


@pytest.mark.parametrize(
    ("stated", "subject", "named"),
    [
        ({"lines": eur("15")}, "lines", "lines: 10 listed, 15 stated (off by -5)"),
        ({"lines": eur("10"), "taxes": eur("2.10")}, "taxes", "taxes: 0 listed, 2.10 stated (off by -2.10)"),
        ({"discounts": eur("1")}, "discounts", "discounts: 0 listed, 1 stated (off by -1)"),
        ({"shipping": eur("4")}, "shipping", "shipping: 0 listed, 4 stated (off by -4)"),
    ],
)
def test_given_what_the_shop_states_when_off_then_the_part_is_named(
    stated: dict[str, Money], subject: str, named: str
) -> None:
    with pytest.raises(TotalMismatch) as caught:
        check(order("12", line("1", "10"), stated=StatedTotals(**stated)))
    assert caught.value.subject == subject
    assert named in caught.value.message


def test_given_a_stated_part_that_differs_when_the_total_fits_then_it_passes() -> None:
    check(order("10", line("1", "10"), stated=StatedTotals(lines=eur("99"))))


@pytest.mark.parametrize(
    "mixed",
    [
        order("1", line("1", "1"), currency="USD"),
        order("1", line("1", "1").model_copy(update={"unit_price": eur("1", "USD")})),
        order("1", line("1", "1").model_copy(update={"discount": eur("0", "USD")})),
        order("1", line("1", "1", "0").model_copy(update={"taxes": (Tax(title="T", amount=eur("0", "USD")),)})),
        order("0", shipping=(ShippingLine(title="S", price=eur("0", "USD"), discount=eur("0")),)),
        order("0", shipping=(ShippingLine(title="S", price=eur("0"), discount=eur("0", "USD")),)),
        order("0", fees=(Fee(title="F", amount=eur("0", "USD")),)),
    ],
)
def test_given_two_currencies_when_checked_then_it_is_off_whatever_the_amounts(mixed: Order) -> None:
    with pytest.raises(TotalMismatch) as caught:
        check(mixed)
    assert caught.value.subject == "currency"


def test_given_the_widest_numbers_when_checked_then_no_digit_is_lost() -> None:
    widest = "99999999999999999999"
    lines = [line(widest, widest) for _ in range(50)]
    parts = breakdown(order("0.00000000000000000001", *lines))
    exact = 50 * int(widest) ** 2
    assert parts.expected == exact
    assert str(parts.difference) == f"{exact - 1}.99999999999999999999"
    with pytest.raises(TotalMismatch, match=str(exact)):
        check(order("1", *lines))


def test_given_a_narrow_context_when_checked_then_nothing_is_rounded() -> None:
    with localcontext() as context:
        context.prec = 2
        check(order("37035.8", line("3", "12345.67", "1.21")))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), CENTS, CENTS, CENTS), max_size=5), CENTS, CENTS, st.booleans())
def test_given_any_amounts_when_the_total_is_their_sum_then_it_adds_up_and_a_cent_more_does_not(
    rows: list[tuple[int, Decimal, Decimal, Decimal]], shipping: Decimal, fee: Decimal, included: bool
) -> None:
    lines = [line(str(n), str(price), str(off), str(taxed)) for n, price, off, taxed in rows]
    total = shipping + fee + sum(n * price - off + (0 if included else taxed) for n, price, off, taxed in rows)
    made = order(
        total,
        *lines,
        taxes_included=included,
        shipping=(ShippingLine(title="S", price=eur(shipping), discount=eur("0")),),
        fees=(Fee(title="F", amount=eur(fee)),),
    )
    check(made)
    with pytest.raises(TotalMismatch, match=r"off by -0\.01"):
        check(made.model_copy(update={"total": eur(total + Decimal("0.01"))}))


def back(amount: str, *taxes: str) -> RefundLine:
    return RefundLine(
        line_id="1",
        title="Mug",
        quantity=Decimal(1),
        amount=eur(amount),
        taxes=tuple(tax(one) for one in taxes),
    )


def refund(total: str, *lines: RefundLine, **parts: object) -> Refund:
    return Refund(external_id="88", lines=lines, total=eur(total)).model_copy(update=parts)


def kept(amount: str) -> tuple[Fee, ...]:
    return (Fee(title="Kept", amount=eur(f"-{amount}")),)


@pytest.mark.parametrize(
    ("given_back", "included"),
    [
        pytest.param(refund("0"), False, id="nothing at all"),
        pytest.param(refund("10", back("10")), False, id="a line"),
        pytest.param(refund("12.1", back("10", "2.1")), False, id="a line and its tax"),
        pytest.param(refund("12.3", back("10", "2.1", "0.2")), False, id="two taxes"),
        pytest.param(refund("10", back("10", "1.74")), True, id="tax included"),
        pytest.param(refund("4.84", shipping=SHIPPING), False, id="shipping"),
        pytest.param(refund("4", shipping=SHIPPING), True, id="shipping with its tax"),
        pytest.param(refund("3.63", fees=FEES), False, id="duties"),
        pytest.param(refund("8", back("10"), fees=kept("2")), False, id="something was kept back"),
        pytest.param(refund("5", fees=(Fee(title="Goodwill", amount=eur("5")),)), False, id="goodwill"),
        pytest.param(refund("0", back("10"), fees=kept("10")), False, id="goods back, and no money"),
        pytest.param(refund("20.57", back("10", "2.1"), shipping=SHIPPING, fees=FEES), False, id="all of it"),
    ],
)
def test_given_a_refund_that_adds_up_when_checked_then_it_passes(given_back: Refund, included: bool) -> None:
    made = order("0", taxes_included=included, refunds=(given_back,))
    check_refunds(made, [given_back])
    assert refund_breakdown(made, given_back).difference == 0


@pytest.mark.parametrize(
    ("total", "tolerance", "off"),
    [
        ("10.00", "0", None),
        ("10.01", "0", "-0.01"),
        ("9.99", "0", "0.01"),
        ("10.01", "0.01", None),
        ("9.98", "0.01", "0.02"),
    ],
)
def test_given_a_tolerance_when_a_refund_is_checked_then_what_passes_it_is_named(
    total: str, tolerance: str, off: str | None
) -> None:
    wrong = refund(total, back("10"))
    for allowed in (Decimal(tolerance), eur(tolerance)):
        if off is None:
            check_refunds(order("10", line("1", "10")), [wrong], allowed)
            continue
        with pytest.raises(TotalMismatch, match=f"refund 88 does not add up.*off by {off}") as caught:
            check_refunds(order("10", line("1", "10")), [wrong], allowed)
        assert caught.value.subject == "refund"


def test_given_more_refunded_than_the_order_came_to_when_checked_then_it_passes() -> None:
    check_refunds(order("10", line("1", "10")), [refund("25", back("25"))])


@pytest.mark.parametrize(
    ("stated", "tolerance", "accepted"),
    [
        ("14", "0", True),
        ("14.02", "0.01", True),
        ("14.03", "0.01", False),
        ("10", "0", False),
        ("13.99", "0", False),
    ],
)
def test_given_what_all_refunds_come_to_in_the_shop_when_checked_then_they_must(
    stated: str, tolerance: str, accepted: bool
) -> None:
    refunds = (refund("10", back("10")), refund("4", back("4"), external_id="77"))
    made = order("0", refunds=refunds, stated=StatedTotals(refunds=eur(stated)))
    if accepted:
        check_refunds(made, refunds[1:], Decimal(tolerance))
    else:
        with pytest.raises(TotalMismatch, match="88 10, 77 4") as caught:
            check_refunds(made, refunds[1:], Decimal(tolerance))
        assert caught.value.subject == "refunds"


@pytest.mark.parametrize(
    "mixed",
    [
        refund("0").model_copy(update={"total": eur("0", "USD")}),
        refund("0", back("0").model_copy(update={"amount": eur("0", "USD")})),
        refund("0", back("0").model_copy(update={"taxes": (Tax(title="T", amount=eur("0", "USD")),)})),
        refund("0", fees=(Fee(title="F", amount=eur("0", "USD")),)),
        refund("0", shipping=(ShippingLine(title="S", price=eur("0"), discount=eur("0", "USD")),)),
    ],
)
def test_given_a_refund_in_two_currencies_when_checked_then_it_is_off_whatever_the_amounts(mixed: Refund) -> None:
    with pytest.raises(TotalMismatch, match="refund 88 is in EUR") as caught:
        check_refunds(order("0"), [mixed])
    assert caught.value.subject == "currency"


def test_given_only_what_its_refunds_come_to_when_an_order_is_off_then_they_are_not_named() -> None:
    with pytest.raises(TotalMismatch) as caught:
        check(order("12", line("1", "10"), stated=StatedTotals(refunds=eur("4"))))
    assert caught.value.subject == "total"
