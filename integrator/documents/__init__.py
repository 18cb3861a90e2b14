"""The canonical documents that connectors map to and from."""

from integrator.documents.money import Money
from integrator.documents.order import (
    Address,
    Customer,
    Fee,
    Line,
    LineKind,
    Order,
    PaymentState,
    Refund,
    RefundLine,
    ShippingLine,
    StatedTotals,
    Tax,
)

__all__ = [
    "Address",
    "Customer",
    "Fee",
    "Line",
    "LineKind",
    "Money",
    "Order",
    "PaymentState",
    "Refund",
    "RefundLine",
    "ShippingLine",
    "StatedTotals",
    "Tax",
]
