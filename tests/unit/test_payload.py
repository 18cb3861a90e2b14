"""Skimming a body takes and refuses what parsing it does."""

from hypothesis import given
from hypothesis import strategies as st

from integrator.errors import Unmapped
from integrator.shops.payload import parse, plain_id
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


def seen(body: bytes, *, skimming: bool) -> str | None:
    """What is read of the body, or that it is refused."""
    try:
        fields = skim(body, "id") if skimming else parse(body)
    except Unmapped as error:
        return error.message
    return plain_id(fields.values.get("id"))


@given(BODIES)
def test_given_any_body_when_skimmed_then_the_id_or_the_refusal_is_that_of_parsing(text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")

    assert seen(body, skimming=True) == seen(body, skimming=False)
