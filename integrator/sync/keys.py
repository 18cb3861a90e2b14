"""The keys of an order's steps: one name for one effect, for ever (PROTOCOL S3)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from integrator.erps.base import StepKind
from integrator.ledger.access import Assignment
from integrator.ledger.steps import Step

_EFFECT = re.compile(
    r"create|update/(?P<update>\d+)|cancel(?:\.(?P<cancel>\d+))?|credit(?:\.(?P<credit>\d+))?/(?P<refund>.*)",
    re.DOTALL,
)
_REFUND = re.compile(r".*/(?:credit(?:\.\d+)?|seen\.\d+/(?:correct|remove))/(.*)", re.DOTALL)


def effect(about: Assignment, kind: StepKind, done: Sequence[Step], refund: str | None = None) -> str:
    """The key of an effect that comes after the steps `done`.

    An update's has a number, which no other update of the order has; a credit's has the refund's own id. What a
    person has undone since may be due once more. It is another effect then, and its key says which.
    """
    kinds = [step.kind for step in done]
    if kind is StepKind.UPDATE:
        numbers = [int(step.request.key.rpartition("/")[2]) for step in done if step.kind is StepKind.UPDATE]
        return _of(about, f"update/{1 + max(numbers, default=0)}")
    if kind is StepKind.CANCEL:
        return _of(about, f"cancel{_again(kinds.count(StepKind.REOPEN))}")
    if kind is StepKind.CREDIT:
        removed = [step for step in done if step.kind is StepKind.REMOVE and refund_id(step) == refund]
        return _of(about, f"credit{_again(len(removed))}/{refund}")
    return _of(about, kind.value)


@dataclass(frozen=True)
class Effect:
    """What a key of ours names: the how manyth update, cancellation or credit, and of which refund."""

    kind: StepKind
    number: int
    refund: str | None
    key: str


def read(about: Assignment, key: str) -> Effect | None:
    """What a key names; None when it is not of this order, or of no effect."""
    start = _of(about, "")
    found = _EFFECT.fullmatch(key.removeprefix(start)) if key.startswith(start) else None
    if found is None:
        return None
    number = next((int(one) for one in (found["update"], found["cancel"], found["credit"]) if one), 1)
    kind = StepKind(re.split(r"[./]", found[0], maxsplit=1)[0])
    return Effect(kind, number, found["refund"], key)


def seen(about: Assignment, kind: StepKind, done: Sequence[Step], refund: str | None = None) -> str:
    """The key of what a person was seen to have done after the steps `done`. It is never sent."""
    name = f"seen.{1 + len(done)}/{kind.value}"
    return _of(about, name if refund is None else f"{name}/{refund}")


def refund_id(step: Step) -> str:
    """Which refund a credit, or what a person did with it, is about."""
    found = _REFUND.fullmatch(step.request.key)
    return found[1] if found else ""


def _again(undone: int) -> str:
    return f".{1 + undone}" if undone else ""


def _of(about: Assignment, name: str) -> str:
    return f"{about.tenant}/{about.erp}/{about.shop}/{about.kind}/{about.external_id}/{name}"
