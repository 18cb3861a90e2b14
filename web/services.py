"""What the app's parts share."""

from dataclasses import dataclass
from typing import cast

from flask import current_app

from integrator.config import Settings
from integrator.dispatch import Publish
from integrator.ledger.engine import Ledger


@dataclass(frozen=True)
class Services:
    """One app's settings, ledger and bell, kept in `app.extensions`."""

    settings: Settings
    ledger: Ledger
    publish: Publish


def services() -> Services:
    """The current app's services."""
    return cast("Services", current_app.extensions["integrator"])
