"""What is peculiar to the fields of WooCommerce's JSON, whatever document they are in."""

from datetime import UTC, datetime
from html import unescape

from integrator.shops.payload import Fields, utc_time


def gmt(value: object) -> datetime | None:
    """Read one of WooCommerce's `_gmt` times: UTC, written without a zone. None for anything else."""
    if not isinstance(value, str):
        return None
    if (zoned := utc_time(value)) is not None:
        return zoned
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else None


def time_of(part: Fields, name: str) -> datetime | None:
    """Give a `_gmt` time; None when there is none. Raises Unmapped."""
    value = part.values.get(name)
    time = gmt(value)
    if value is not None and value != "" and time is None:
        part.refuse(name, "is not a time")
    return time


def title(part: Fields, name: str) -> str | None:
    """Give a name for people. WordPress keeps some with entities in them: `Mug &ndash; Color: Black`."""
    text = part.text(name)
    return unescape(text).strip() or None if text else None


def object_of(part: Fields, name: str) -> Fields | None:
    """Give an object. PHP writes an empty one as an empty list."""
    return None if part.values.get(name) == [] else part.object(name)


def reference(part: Fields, name: str) -> str | None:
    """Give the id of something else; WooCommerce writes 0 for none."""
    return None if part.values.get(name) in (0, "0", "") else part.id(name)
