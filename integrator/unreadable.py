"""Genuine deliveries whose body has no readable id: how they are named, and why they wait for a person."""

from integrator.errors import Unmapped

PREFIX = "delivery:"
"""What their external id begins with; the delivery's correlation id follows."""

REMEDY = (
    "Look at the delivery's body in the ledger and find the order in the shop; saved there once more, it is sent "
    "again. Requeueing does not help. A body that is not the platform's means that somebody else knows the "
    "signing secret: change it."
)


def failure(why: str = "") -> Unmapped:
    """The same failure whenever it is seen, so that a requeue neither hides nor regroups it."""
    return Unmapped("The webhook's body has no readable id.", subject="body", detail=why, remedy=REMEDY)
