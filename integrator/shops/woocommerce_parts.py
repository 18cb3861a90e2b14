"""The parts that WooCommerce's orders and refunds have alike; the sign of their amounts is the document's."""

from integrator.documents import Fee, Money, ShippingLine
from integrator.shops.payload import Fields
from integrator.shops.woocommerce_amounts import Amounts
from integrator.shops.woocommerce_fields import title


def shipping(amounts: Amounts, line: Fields) -> ShippingLine:
    """Map what is charged for sending. Raises Unmapped naming the field."""
    taxes = amounts.taxes(line)
    return ShippingLine(
        title=title(line, "method_title") or "Shipping",
        price=amounts.money(line, "total", amounts.charged(line, taxes)),
        discount=Money.zero(amounts.currency),
        taxes=taxes,
    )


def fee(amounts: Amounts, line: Fields) -> Fee:
    """Map a fee, which may be negative: it then takes off, as a coupon does. Raises Unmapped naming the field."""
    taxes = amounts.taxes(line)
    charged = amounts.charged(line, taxes)
    return Fee(title=title(line, "name") or "Fee", amount=amounts.money(line, "total", charged), taxes=taxes)
