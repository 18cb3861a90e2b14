"""Finding connectors: shops and management systems by their entry points, so that a third party adds one."""

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from integrator.erps.base import Erp
from integrator.shops.base import Shop


class NoConnector(Exception):
    """Nothing installed answers to this name. Its text is for people."""


@cache
def shop(platform: str) -> Shop:
    """The connector of a shop platform. Raises NoConnector."""
    found: Shop = _load("integrator.shops", platform)
    return found


@cache
def erp(kind: str) -> Erp:
    """The connector of a kind of management system. Raises NoConnector."""
    found: Erp = _load("integrator.erps", kind)
    return found


def _load(group: str, name: str) -> Any:
    points = entry_points(group=group)
    if name not in points.names:
        known = ", ".join(sorted(points.names)) or "none"
        raise NoConnector(f"No connector is called {name!r} in {group}; installed are {known}.")
    return points[name].load()()
