"""Text that every database stores."""


def storable(text: str) -> str:
    """Without NUL (PostgreSQL refuses it) and lone surrogates (no encoding has them)."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
