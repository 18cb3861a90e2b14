"""Money is exact, keeps its currency, and never was a float."""

from decimal import Decimal, Inexact, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from integrator.documents import Money, Order, PaymentState, StatedTotals
from integrator.documents.money import EXACT

SMALL = st.decimals(min_value="-99999999999999.9999", max_value="99999999999999.9999", places=4)


def eur(amount: str) -> Money:
    return Money(amount=Decimal(amount), currency="EUR")


@settings(deadline=None)
@given(SMALL, SMALL)
def test_given_two_amounts_when_added_and_subtracted_then_the_first_is_back(one: Decimal, two: Decimal) -> None:
    money, other = Money(amount=one, currency="EUR"), Money(amount=two, currency="EUR")
    assert (money + other - other).amount == one


@pytest.mark.parametrize(
    ("amount", "factor", "product"),
    [
        ("1.10", 3, "3.30"),
        ("0.00", 7, "0.00"),
        ("19.99", 0, "0.00"),
        ("-1.5", Decimal("0.5"), "-0.75"),
        ("1234567890.12", Decimal(1_000_000_000), "1234567890120000000.00"),
    ],
)
def test_given_an_amount_when_multiplied_then_the_product_is_exact(
    amount: str, factor: Decimal | int, product: str
) -> None:
    assert (eur(amount) * factor).amount == Decimal(product)


def test_given_a_narrow_context_when_money_is_added_then_not_a_digit_is_lost() -> None:
    with localcontext() as context:
        context.prec = 3
        assert (eur("12345.67") + eur("0.01")).amount == Decimal("12345.68")
        assert (eur("12345.67") - eur("0.01")).amount == Decimal("12345.66")
        assert (eur("12345.67") * 2).amount == Decimal("24691.34")


def test_given_the_exact_context_when_a_digit_would_be_lost_then_it_raises() -> None:
    with pytest.raises(Inexact):
        EXACT.add(Decimal("1e100"), Decimal("1e-100"))


@pytest.mark.parametrize("amount", [1.1, True, "NaN", "Infinity", "1e30", "1e-30", "1" * 21, "", "ten"])
def test_given_what_is_no_amount_when_made_money_then_it_is_refused(amount: object) -> None:
    with pytest.raises(ValidationError):
        Money.model_validate({"amount": amount, "currency": "EUR"})


@pytest.mark.parametrize("currency", ["", "eur", "EURO", "€", "E1R", "EUR\n"])
def test_given_what_is_no_currency_when_made_money_then_it_is_refused(currency: str) -> None:
    with pytest.raises(ValidationError):
        Money(amount=Decimal(1), currency=currency)


def test_given_two_currencies_when_added_or_subtracted_then_it_is_refused() -> None:
    dollars = Money(amount=Decimal(1), currency="USD")
    with pytest.raises(ValueError, match="EUR and USD"):
        eur("1") + dollars
    with pytest.raises(ValueError, match="EUR and USD"):
        eur("1") - dollars


def test_given_a_product_of_over_20_digits_when_made_then_it_is_refused_not_rounded() -> None:
    with pytest.raises(ValueError, match="20 digits"):
        eur("99999999999999999999") * 10


def test_given_a_float_factor_when_multiplied_then_it_is_refused() -> None:
    with pytest.raises(ValueError, match="float"):
        eur("1") * 0.5  # type: ignore[operator]


def test_given_money_when_written_as_json_then_a_plain_string_that_reads_back() -> None:
    money = Money(amount=Decimal("1E+1"), currency="EUR")
    assert money.model_dump_json() == '{"amount":"10","currency":"EUR"}'
    assert Money.model_validate_json(money.model_dump_json()) == money


def order(total: str, **changes: object) -> Order:
    made = Order(
        external_id="1",
        number="#1",
        currency="EUR",
        taxes_included=False,
        lines=(),
        total=eur(total),
        payment_state=PaymentState.PAID,
    )
    return made.model_copy(update=changes)


def test_given_equal_contents_written_differently_when_digested_then_equal() -> None:
    first = Order.model_validate_json(
        order("1.50").model_dump_json().replace('"placed_at":null', '"placed_at":"2026-01-01T12:00:00+02:00"')
    )
    second = Order.model_validate_json(
        order("1.5").model_dump_json().replace('"placed_at":null', '"placed_at":"2026-01-01T10:00:00Z"')
    )
    assert first.digest() == second.digest()


@pytest.mark.parametrize("number", ["0", "-0", "0.00", "0E+2"])
def test_given_any_zero_when_digested_then_the_same(number: str) -> None:
    assert order(number).digest() == order("0").digest()


def test_given_another_time_of_update_or_stated_total_when_digested_then_equal() -> None:
    changed = order("1.5", updated_at=None, stated=StatedTotals(lines=eur("9")))
    assert changed.digest() == order("1.5").digest()


@pytest.mark.parametrize(
    "changes", [{"taxes_included": True}, {"note": "n"}, {"number": "#2"}, {"currency": "USD"}]
)
def test_given_another_content_when_digested_then_another_digest(changes: dict[str, object]) -> None:
    assert order("1.5", **changes).digest() != order("1.5").digest()


def test_given_broken_text_when_digested_then_it_does_not_raise() -> None:
    assert len(order("1", note="\ud800").digest()) == 64
