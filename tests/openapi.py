"""Checks content against the schemas of docs/reference/management-system.openapi.yaml."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, FormatChecker, ValidationError  # type: ignore[import-untyped]
from referencing import Registry
from referencing.jsonschema import DRAFT202012

Invalid = ValidationError
FILE = Path(__file__).parent.parent / "docs" / "reference" / "management-system.openapi.yaml"


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return loaded


def check(content: object, schema: str) -> None:
    """Raises Invalid unless the content is one of `components.schemas.<schema>`."""
    resource = DRAFT202012.create_resource(document())
    registry: Registry[Any] = Registry().with_resource("urn:contract", resource)
    Draft202012Validator(
        {"$ref": f"urn:contract#/components/schemas/{schema}"}, registry=registry, format_checker=FormatChecker()
    ).validate(content)
