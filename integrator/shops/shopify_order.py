"""Shopify's REST order as the canonical order.

Amounts are in the shop's currency: `shop_money` of the field's `_set` where there is one, else the plain
field, which Shopify documents to be in the shop's currency too.

What counts is the order as sold. Shopify: the total price is "before returns", and an edit that adds a line or
raises a quantity raises it. One that removes changes neither `quantity` nor `total_price`: it makes a refund,
mostly without a transaction, and `current_quantity` and `current_total_price` follow. So all adds up.
"""

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import TypeVar

from integrator.documents import (
    Address,
    Customer,
    Fee,
    Line,
    LineKind,
    Money,
    Order,
    PaymentState,
    ShippingLine,
    StatedTotals,
)
from integrator.documents.money import EXACT
from integrator.documents.sums import breakdown
from integrator.shops.payload import Fields
from integrator.shops.shopify_amounts import Amounts
from integrator.shops.shopify_refund import with_refunds

PAYMENT_STATES = {state.value: state for state in PaymentState} | {"expired": PaymentState.PENDING}
"""Shopify's words are ours, and one more: an authorisation that has expired, so that nothing is paid."""

CURRENCY = re.compile("[A-Z]{3}", re.ASCII)

_Part = TypeVar("_Part", Line, ShippingLine, Fee)


def map_order(order: Fields) -> Order:
    """Make the canonical order of Shopify's. Raises Unmapped naming the field, never anything else."""
    currency = order.text("currency")
    if not currency or not CURRENCY.fullmatch(currency):
        order.refuse("currency", "is not a currency")
    mapped = _Mapper(currency).order(order)
    mapped = _with_tax_rounding(_with_cash_rounding(mapped, order))
    return with_refunds(mapped, order)


class _Mapper(Amounts):
    """Maps the parts of an order whose shop's currency is known."""

    def order(self, order: Fields) -> Order:
        if order.values.get("line_items") is None:
            order.refuse("line_items", "is missing")
        lines = tuple(self.line(line) for line in order.objects("line_items"))
        external_id = order.id("id") or order.refuse("id", "is missing")
        return Order(
            external_id=external_id,
            number=order.text("name") or order.id("order_number") or external_id,
            placed_at=order.time("processed_at") or order.time("created_at"),
            updated_at=order.time("updated_at"),
            currency=self.currency,
            taxes_included=order.flag("taxes_included") or False,
            lines=lines,
            shipping=tuple(self.shipping(order)),
            fees=tuple(self.fees(order, lines)),
            total=self.money(order, "total_price") or order.refuse("total_price", "is missing"),
            payment_state=_payment_state(order),
            customer=_customer(order),
            billing_address=_address(order.object("billing_address")),
            shipping_address=_address(order.object("shipping_address")),
            note=order.text("note"),
            cancelled_at=order.time("cancelled_at"),
            cancel_reason=order.text("cancel_reason"),
            stated=self.stated(order, lines),
        )

    def line(self, line: Fields) -> Line:
        quantity = line.number("quantity")
        if quantity is None or quantity < 0:
            line.refuse("quantity", "is missing or negative")
        price = self.money(line, "price") or line.refuse("price", "is missing")
        return Line(
            external_id=line.id("id") or line.refuse("id", "is missing"),
            kind=_kind(line),
            sku=line.text("sku"),
            title=line.text("name") or line.text("title") or line.refuse("title", "is missing"),
            quantity=quantity,
            unit_price=price,
            discount=self.allocated(line) or self.discount(line, "total_discount"),
            taxes=self.taxes(line),
        )

    def shipping(self, order: Fields) -> Iterator[ShippingLine]:
        """Map the shipping lines that are still there.

        Shopify: removed ones stay in the payload with `is_removed`; `discounted_price` holds line-level
        discounts only, so the allocations go first.
        """
        for line in order.objects("shipping_lines"):
            if line.flag("is_removed"):
                continue
            price = self.money(line, "price") or line.refuse("price", "is missing")
            discount = self.allocated(line)
            if discount is None:
                paid = self.money(line, "discounted_price") or price
                discount = self.fitting(line, "discounted_price", EXACT.subtract(price.amount, paid.amount))
            if discount.amount < 0:
                line.refuse("discounted_price", "is more than the price")
            title = line.text("title") or line.text("code") or "Shipping"
            yield ShippingLine(title=title, price=price, discount=discount, taxes=self.taxes(line))

    def fees(self, order: Fields, lines: tuple[Line, ...]) -> Iterator[Fee]:
        """Map what is charged beside lines and shipping, and is part of `total_price`.

        Shopify: tips are lines; the order's `total_tip_received` counts only where no line is a tip.
        """
        duties = self.money(order, "original_total_duties")
        if duties is not None and duties.amount and not order.flag("duties_included"):
            parts = (duty for line in order.objects("line_items") for duty in line.objects("duties"))
            taxes = tuple(tax for duty in parts for tax in self.taxes(duty))
            yield Fee(title="Duties", amount=duties, taxes=taxes)
        additional = self.money(order, "original_total_additional_fees")
        if additional is not None and additional.amount:
            yield Fee(title="Additional fees", amount=additional)
        tip = self.money(order, "total_tip_received")
        if tip is not None and tip.amount and not any(line.kind is LineKind.TIP for line in lines):
            yield Fee(title="Tip", amount=tip)

    def stated(self, order: Fields, lines: tuple[Line, ...]) -> StatedTotals:
        """Read the totals that Shopify states, for the sum check's message.

        Shopify doesn't say whether `total_line_items_price` counts tips, so it is left out beside one.
        """
        tipped = any(line.kind is LineKind.TIP for line in lines)
        return StatedTotals(
            lines=None if tipped else self.money(order, "total_line_items_price"),
            discounts=self.money(order, "total_discounts"),
            taxes=self.money(order, "total_tax"),
        )


def _with_cash_rounding(mapped: Order, order: Fields) -> Order:
    """Add the rounding of a cash payment as a fee where the total holds it.

    Shopify: "the rounding adjustment that can be applied to totalReceived", and nothing about `total_price`.
    So the order itself tells: if it adds up with the rounding only, the rounding is part of it; else it is a
    matter of the payment.
    """
    rounding = _Mapper(mapped.currency).money(order, "total_cash_rounding_payment_adjustment")
    if rounding is None or not rounding.amount:
        return mapped
    if breakdown(mapped).difference.copy_negate() != rounding.amount:
        return mapped
    return mapped.model_copy(update={"fees": (*mapped.fees, Fee(title="Cash rounding", amount=rounding))})


def _with_tax_rounding(mapped: Order) -> Order:
    """Let the largest tax take what the order's tax has been rounded by as a whole.

    Shopify rounds taxes by line or once for the order, and says nothing of which. So the order itself tells: if it
    adds up with `total_tax` in the place of its lines' taxes, and they differ by rounding only, that is it.
    """
    stated = mapped.stated.taxes if mapped.stated else None
    parts = breakdown(mapped)
    if stated is None or mapped.taxes_included:
        return mapped
    missing = EXACT.subtract(stated.amount, parts.taxes)
    taxed: tuple[Line | ShippingLine | Fee, ...] = (*mapped.lines, *mapped.shipping, *mapped.fees)
    amounts = [tax.amount.amount for part in taxed for tax in part.taxes]
    unit = Decimal(1).scaleb(int(stated.amount.as_tuple().exponent))
    if not missing or missing.copy_abs() > unit * len(amounts) or parts.difference != missing.copy_negate():
        return mapped
    largest = amounts.index(max(amounts, key=abs))
    amounts[largest] = EXACT.add(amounts[largest], missing)
    left = iter(amounts)
    lines = tuple(_taxed(line, left) for line in mapped.lines)
    shipping = tuple(_taxed(line, left) for line in mapped.shipping)
    fees = tuple(_taxed(fee, left) for fee in mapped.fees)
    return mapped.model_copy(update={"lines": lines, "shipping": shipping, "fees": fees})


def _taxed(part: _Part, amounts: Iterator[Decimal]) -> _Part:
    """The part with its taxes' amounts replaced by the next ones."""
    taxes = tuple(
        tax.model_copy(update={"amount": Money(amount=next(amounts), currency=tax.amount.currency)})
        for tax in part.taxes
    )
    return part.model_copy(update={"taxes": taxes})


def _kind(line: Fields) -> LineKind:
    """Say what a line sells.

    Shopify: `tip_payment_gateway` and `tip_payment_method` are present (and may be null) only on tips, and
    newer payloads have a `tip` object. A custom line has neither product nor variant nor SKU; a line with a
    SKU and no product is of a product deleted since.
    """
    if line.has("tip_payment_gateway", "tip_payment_method") or line.object("tip"):
        return LineKind.TIP
    if line.flag("gift_card"):
        return LineKind.GIFT_CARD
    if line.id("product_id") or line.id("variant_id") or line.text("sku"):
        return LineKind.PRODUCT
    return LineKind.CUSTOM


def _payment_state(order: Fields) -> PaymentState:
    state = PAYMENT_STATES.get(order.text("financial_status") or "")
    return state or order.refuse("financial_status", "is not a state that we know")


def _customer(order: Fields) -> Customer | None:
    """Make the buyer; a guest has contact details on the order only, and may have none."""
    known = order.object("customer") or Fields({}, order.where("customer"))
    billing = order.object("billing_address") or Fields({}, order.where("billing_address"))
    customer = Customer(
        external_id=known.id("id"),
        name=_name(known) or _name(billing),
        email=known.text("email") or order.text("email") or order.text("contact_email"),
        phone=known.text("phone") or order.text("phone"),
    )
    return customer if customer != Customer() else None


def _address(address: Fields | None) -> Address | None:
    if address is None:
        return None
    mapped = Address(
        name=_name(address),
        company=address.text("company"),
        street=address.text("address1"),
        street2=address.text("address2"),
        postal_code=address.text("zip"),
        city=address.text("city"),
        region=address.text("province"),
        country=address.text("country_code") or address.text("country"),
        phone=address.text("phone"),
    )
    return mapped if mapped != Address() else None


def _name(person: Fields) -> str | None:
    given = " ".join(part for part in (person.text("first_name"), person.text("last_name")) if part)
    return person.text("name") or given or None
