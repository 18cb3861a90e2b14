"""WooCommerce's REST v3 order as the canonical order.

WooCommerce: the amounts of lines, shipping and fees are without taxes, even where the shop's prices include
them (`prices_include_tax`). There the taxes are added back, so that a line shows the price that the shop shows
and a quantity divides it evenly.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from integrator.documents import (
    Address,
    Customer,
    Fee,
    Line,
    LineKind,
    Money,
    Order,
    PaymentState,
    Refund,
    StatedTotals,
)
from integrator.documents.money import EXACT
from integrator.documents.sums import breakdown
from integrator.shops.payload import Fields
from integrator.shops.woocommerce_amounts import ZERO, Amounts, add
from integrator.shops.woocommerce_fields import object_of, reference, time_of, title
from integrator.shops.woocommerce_parts import fee, shipping
from integrator.shops.woocommerce_refund import map_refund

CURRENCY = re.compile("[A-Z]{3}", re.ASCII)

CANCELLED = frozenset({"cancelled", "trash"})
"""WooCommerce: given up by a person, or by itself when nobody paid in time; a trashed order may be restored."""

NOT_YET = frozenset({"failed", "checkout-draft", "auto-draft", "draft", "new"})
"""WooCommerce: nobody is to act on these yet.

A `failed` payment is no cancellation: the buyer may try again. But most are never paid, and bots make thousands
by trying stolen cards. The others are not placed yet: the block checkout saves its drafts, and sends
`order.updated` of them.
"""


def map_order(order: Fields, refunds: Sequence[Fields] = ()) -> Order:
    """Make the canonical order of WooCommerce's. Raises Unmapped naming the field, never anything else.

    `refunds` are the details that /orders/{id}/refunds tells; the order itself has no more of them than a total.
    """
    currency = order.text("currency")
    if not currency or not CURRENCY.fullmatch(currency):
        order.refuse("currency", "is not a currency")
    mapper = _Mapper(Amounts.of(order, currency))
    return mapper.with_rounding(mapper.order(order, refunds))


def refund_ids(order: Fields) -> frozenset[str]:
    """The ids of the refunds that the order says it has. Raises Unmapped."""
    return frozenset(part.id("id") or part.refuse("id", "is missing") for part in order.objects("refunds"))


@dataclass(frozen=True)
class _Mapper:
    """Maps the parts of an order whose amounts can be read."""

    amounts: Amounts

    def order(self, order: Fields, refunds: Sequence[Fields]) -> Order:
        if order.values.get("line_items") is None:
            order.refuse("line_items", "is missing")
        external_id = order.id("id") or order.refuse("id", "is missing")
        status = order.text("status") or order.refuse("status", "is missing")
        total = order.number("total")
        if total is None:
            order.refuse("total", "is missing")
        cancelled = status in CANCELLED
        return Order(
            external_id=external_id,
            number=_number(order) or external_id,
            placed_at=time_of(order, "date_created_gmt"),
            updated_at=time_of(order, "date_modified_gmt"),
            currency=self.amounts.currency,
            taxes_included=self.amounts.taxes_included,
            lines=tuple(self.line(line) for line in order.objects("line_items")),
            shipping=tuple(shipping(self.amounts, line) for line in order.objects("shipping_lines")),
            fees=tuple(fee(self.amounts, line) for line in order.objects("fee_lines")),
            total=self.amounts.money(order, "total", total),
            payment_state=_payment_state(order, status, total),
            customer=_customer(order),
            billing_address=_address(object_of(order, "billing")),
            shipping_address=_address(object_of(order, "shipping")),
            note=order.text("customer_note"),
            cancelled_at=_cancelled_at(order) if cancelled else None,
            cancel_reason=status if cancelled else None,
            not_yet=status if status in NOT_YET else None,
            refunds=self.refunds(refunds),
            stated=self.stated(order),
        )

    def refunds(self, refunds: Sequence[Fields]) -> tuple[Refund, ...]:
        mapped = [map_refund(refund, self.amounts) for refund in refunds]
        return tuple(sorted(mapped, key=lambda refund: int(refund.external_id)))

    def line(self, line: Fields) -> Line:
        """Map a line. WooCommerce: `subtotal` is before discounts and never less than `total`, which is after."""
        quantity = line.number("quantity")
        if quantity is None or quantity < 0:
            line.refuse("quantity", "is missing or negative")
        taxes = self.amounts.taxes(line)
        charged = self.amounts.charged(line, taxes)
        if charged and not quantity:
            line.refuse("quantity", "is zero, but the line is not free")
        before = self.amounts.undiscounted(line)
        before = charged if before is None else max(before, charged)
        price = self.amounts.unit_price(before, quantity)
        return Line(
            external_id=line.id("id") or line.refuse("id", "is missing"),
            kind=_kind(line),
            sku=line.text("sku"),
            title=title(line, "name") or line.refuse("name", "is missing"),
            quantity=quantity,
            unit_price=self.amounts.money(line, "subtotal", price),
            discount=self.amounts.money(
                line, "subtotal", EXACT.subtract(EXACT.multiply(price, quantity), charged)
            ),
            taxes=taxes,
        )

    def stated(self, order: Fields) -> StatedTotals:
        """Read the totals that WooCommerce states, for the sum check's message."""
        shipping = order.number("shipping_total")
        if shipping is not None and self.amounts.taxes_included:
            shipping = add(shipping, order.number("shipping_tax") or ZERO)
        taxes = order.number("total_tax")
        return StatedTotals(
            taxes=None if taxes is None else self.amounts.money(order, "total_tax", taxes),
            shipping=None if shipping is None else self.amounts.money(order, "shipping_total", shipping),
            refunds=self.amounts.money(order, "refunds", _refunded(order)),
        )

    def with_rounding(self, order: Order) -> Order:
        """Add what WooCommerce's rounding makes the total differ from its parts as a fee of its own.

        WooCommerce: with `woocommerce_tax_round_at_subtotal` the taxes are rounded once for the order, and each
        part's once more when it is written. More than half a unit for each part is no rounding: the order's sum
        tells.
        """
        difference = breakdown(order).difference
        parts = len(order.lines) + len(order.shipping) + len(order.fees)
        if not difference or EXACT.multiply(difference.copy_abs(), 2) > self.amounts.unit * (parts + 1):
            return order
        amount = Money(amount=difference.copy_negate(), currency=order.currency)
        return order.model_copy(update={"fees": (*order.fees, Fee(title="Rounding", amount=amount))})


def _number(order: Fields) -> str | None:
    """The number that people know, which plugins make of letters too."""
    number = order.values.get("number")
    return str(number) if isinstance(number, int) and not isinstance(number, bool) else order.text("number")


def _payment_state(order: Fields, status: str, total: Decimal) -> PaymentState:
    """Say how much is paid.

    WooCommerce: `date_paid` tells, not the status: cash on delivery is `processing` and not paid yet, and
    plugins have statuses of their own.
    """
    refunded = _refunded(order)
    if status == "refunded" or (refunded > 0 and refunded >= total):
        return PaymentState.REFUNDED
    if refunded > 0:
        return PaymentState.PARTIALLY_REFUNDED
    if status == "completed" or time_of(order, "date_paid_gmt") is not None:
        return PaymentState.PAID
    return PaymentState.VOIDED if status in CANCELLED else PaymentState.PENDING


def _refunded(order: Fields) -> Decimal:
    """What all refunds come to. WooCommerce: `refunds[].total` is negative."""
    return EXACT.subtract(ZERO, add(*(part.number("total") or ZERO for part in order.objects("refunds"))))


def _cancelled_at(order: Fields) -> datetime:
    """When the order was cancelled. WooCommerce has no time of it, so it is that of the last change."""
    times = (time_of(order, name) for name in ("date_modified_gmt", "date_created_gmt"))
    return next(filter(None, times), None) or order.refuse("date_modified_gmt", "is missing")


def _kind(line: Fields) -> LineKind:
    """Say what a line sells. WooCommerce: a line made by hand or by a plugin has product 0 and no SKU."""
    sold = any(reference(line, name) for name in ("product_id", "variation_id")) or line.text("sku")
    return LineKind.PRODUCT if sold else LineKind.CUSTOM


def _customer(order: Fields) -> Customer | None:
    """Make the buyer. WooCommerce: a guest is customer 0; name and contact are in the billing address."""
    billing = object_of(order, "billing") or Fields({}, order.where("billing"))
    customer = Customer(
        external_id=reference(order, "customer_id"),
        name=_name(billing),
        email=billing.text("email"),
        phone=billing.text("phone"),
    )
    return customer if customer != Customer() else None


def _address(address: Fields | None) -> Address | None:
    """Map an address. WooCommerce writes one that was not asked for with every part empty."""
    if address is None:
        return None
    mapped = Address(
        name=_name(address),
        company=address.text("company"),
        street=address.text("address_1"),
        street2=address.text("address_2"),
        postal_code=address.text("postcode"),
        city=address.text("city"),
        region=address.text("state"),
        country=address.text("country"),
        phone=address.text("phone"),
    )
    return mapped if mapped != Address() else None


def _name(person: Fields) -> str | None:
    return " ".join(part for part in (person.text("first_name"), person.text("last_name")) if part) or None
