"""Checks that the shops' configurations share. Every complaint is a sentence for people that shows no secret."""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

VISIBLE = re.compile(r"[!-~]+", re.ASCII)

LEAST_RATE, MOST_RATE = 0.1, 1_000.0
"""Requests per second that a shop's configuration may name."""


def refuse_unknown(where: str, given: Mapping[str, Any], known: set[str]) -> None:
    """Refuse keys that nothing reads: a misspelt one would be ignored silently. Raises ValueError."""
    if unknown := sorted(map(str, set(given) - known)):
        raise ValueError(f"{where} has unknown keys: {', '.join(unknown)}")


def is_visible(value: object) -> bool:
    """Whether the value is text of visible ASCII, as a header carries it."""
    return isinstance(value, str) and VISIBLE.fullmatch(value) is not None


def check_url(url: object) -> SplitResult:
    """Take an address apart: http(s), host, port, path, and nothing else. Raises ValueError."""
    try:
        parts = urlsplit(url) if isinstance(url, str) and VISIBLE.fullmatch(url) else None
        usable = (
            parts is not None
            and parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and parts.port != 0
            and not (parts.username or parts.password or parts.query or parts.fragment)
        )
    except ValueError:  # a port out of range, a broken IPv6 address
        usable = False
    if not usable or parts is None:
        raise ValueError("url must be http(s)://host[:port][/path], without user, query or fragment")
    return parts


def is_loopback(host: str) -> bool:
    """Whether the host is this machine, so that nothing sent there leaves it."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_rate(value: object) -> None:
    """Check how often a shop may be asked, if that is given. Raises ValueError."""
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not LEAST_RATE <= float(str(value)) <= MOST_RATE:
        raise ValueError(f"requests_per_second must be a number from {LEAST_RATE:g} to {MOST_RATE:g}")
