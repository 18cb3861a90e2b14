"""Limits that nobody reaches: what the sandbox's tenants may do, so that their own speed is seen."""

from typing import Any

PLAN: dict[str, Any] = {"per_second": 2_000, "burst": 200, "per_day": 10_000_000}
"""A plan as the tenants' file has it."""

REQUESTS_PER_SECOND = 1_000
"""How often a shop may be asked."""
