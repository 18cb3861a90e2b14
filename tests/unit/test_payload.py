"""Skimming a body finds what parsing it does."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrator.errors import Unmapped
from integrator.shops.payload import Fields, parse, plain_id
from integrator.shops.skim import skim

TEXTS = st.sampled_from(['""', '"id"', '"a:b"', '"\\u003a"', '"\\u003A:"', '"\\":"', '"\\ud800"', '"é"'])
NUMBERS = st.sampled_from(
    ["7", "7.0", "7e0", "-7", "18446744073709551615", "18446744073709551616", "1e400", "NaN"]
)
SPACES = st.sampled_from(["", " ", "\n"])


def _object(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(TEXTS, SPACES, values).map(lambda parts: f"{parts[0]}{parts[1]}:{parts[2]}")
    return st.lists(pairs, max_size=4).map(lambda found: "{" + ",".join(found) + "}")


def _list(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(values, max_size=3).map(lambda found: "[" + ",".join(found) + "]")


BODIES = _object(
    st.recursive(TEXTS | NUMBERS, lambda values: _object(values) | _list(values), max_leaves=8)
) | _list(TEXTS)


def seen(read: Callable[[bytes], Fields], body: bytes) -> str | None:
    """The id that is read of the body, or the word of refusal."""
    try:
        return plain_id(read(body).values.get("id"))
    except Unmapped as error:
        return error.message


@given(BODIES)
def test_given_any_body_when_skimmed_then_the_id_or_the_refusal_is_that_of_parsing(text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    skimmed, parsed = (seen(read, body) for read in (lambda b: skim(b, "id", "a:b"), parse))

    assert skimmed == parsed or (parsed == "the body is not strict JSON (ValueError)" and is_twice(text))


def is_twice(text: str) -> bool:
    """Whether a key is given twice: the one thing that skimming passes over."""
    found = []

    def note(pairs: list[tuple[str, object]]) -> None:
        found.append(len(dict(pairs)) < len(pairs))

    json.loads(text, object_pairs_hook=note, parse_constant=lambda _: pytest.fail("NaN was passed over"))
    return any(found)


@pytest.mark.parametrize("rest", ['{"a": 1, "a": 2}', '"\\ud83d"', "7"])
def test_given_a_fault_elsewhere_in_a_body_when_skimmed_then_the_order_is_found(
    rest: str,
) -> None:
    body = f'{{"rest": {rest}, "id": 7}}'.encode()

    assert seen(lambda b: skim(b, "id"), body) == "7"
    assert seen(parse, body) == ("7" if "{" not in rest else "the body is not strict JSON (ValueError)")
