"""What a made-up shop gives back: goods, shipping, something on top, money under way, and what edits take out."""

import random

from sandbox.shop_draft import Draft, DraftLine, DraftRefund, DraftReturn


def refund(draft: Draft, dice: random.Random, *, everything: bool = False) -> DraftRefund | None:
    """Give something back of a paid order, and pay it; None when there is nothing to give."""
    if not draft.paid or any(one.pending for one in draft.refunds):
        return None
    made = _new(draft)
    if draft.owed and not everything:
        made.paid, draft.owed = draft.owed, 0
        return _keep(draft, made)
    kind = (
        "all"
        if everything
        else dice.choice(("line", "line", "line", "less", "shipping", "goodwill", "all", "late"))
    )
    if kind not in {"shipping", "goodwill"}:
        made.returns = _returns(draft, dice, everything=kind == "all")
    if kind in {"all", "shipping"}:
        _give_shipping_back(draft, made, dice, everything=kind == "all")
    if kind == "goodwill":
        made.kept = -dice.randint(1, 300)
    elif kind == "less":
        made.kept = dice.randint(0, max(made.calculated, 0))
    if not made.returns and not made.shipping and not made.kept:
        return None
    made.paid = made.total
    made.pending = made.was_pending = kind == "late"
    return _keep(draft, made)


def edit_out(draft: Draft, dice: random.Random) -> tuple[DraftLine, int] | None:
    """Take pieces of a line out of the order by an edit: the line and how many; None when there are none.

    Shopify keeps that as a refund, whose money comes later when the order is paid already.
    """
    made = _new(draft)
    made.returns = _returns(draft, dice, everything=False)
    if not made.returns:
        return None
    if draft.paid:
        draft.owed += made.total
    _keep(draft, made)
    return made.returns[0].line, made.returns[0].quantity


def _new(draft: Draft) -> DraftRefund:
    return DraftRefund(
        refund_id=draft.order_id * 10 + len(draft.refunds),
        created_at=draft.updated_at,
        taxes_included=draft.taxes_included,
        note=None if len(draft.refunds) % 2 else "Example note",
    )


def _keep(draft: Draft, made: DraftRefund) -> DraftRefund:
    draft.refunds.append(made)
    for one in made.returns:
        one.line.returned += one.quantity
    return made


def _returns(draft: Draft, dice: random.Random, *, everything: bool) -> tuple[DraftReturn, ...]:
    there = [line for line in draft.lines if line.current and line.kind != "tip"]
    if everything:
        return tuple(_return(draft, line, line.current) for line in there)
    if not there:
        return ()
    line = dice.choice(there)
    return (_return(draft, line, dice.randint(1, line.current)),)


def _return(draft: Draft, line: DraftLine, quantity: int) -> DraftReturn:
    """So many pieces of a line, such that all of its pieces come to what the line does."""
    before, after = line.returned, line.returned + quantity
    tax = draft.tax(line.net, line.tax_rate)
    amounts = (_share(whole, line, after) - _share(whole, line, before) for whole in (line.net, tax))
    return DraftReturn(line, quantity, *amounts)


def _share(cents: int, line: DraftLine, pieces: int) -> int:
    return (2 * cents * pieces + line.quantity) // (2 * line.quantity)


def _give_shipping_back(draft: Draft, made: DraftRefund, dice: random.Random, *, everything: bool) -> None:
    left = draft.shipping_net - sum(one.shipping for one in draft.refunds)
    tax_left = draft.tax(draft.shipping_net, draft.tax_rate) - sum(one.shipping_tax for one in draft.refunds)
    made.shipping = left if everything or dice.random() < 0.5 else left // 2
    made.shipping_tax = (
        tax_left if made.shipping == left else min(draft.tax(made.shipping, draft.tax_rate), tax_left)
    )
