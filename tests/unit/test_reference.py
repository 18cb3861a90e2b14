"""The pages that are made from the code: they are as new as it is, and say all of it."""

from pathlib import Path

import pytest

from integrator import errors, reference
from integrator.config import Settings
from integrator.ledger.schema import State

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", sorted(reference.pages()))
def test_given_the_code_when_its_page_is_read_then_it_is_as_new(name: str) -> None:
    assert (FOLDER / name).read_text() == reference.pages()[name], "run `make docs`"


def test_given_a_setting_or_an_error_when_the_pages_are_made_then_it_is_there() -> None:
    settings, taxonomy = reference.settings_page(), reference.errors_page()
    for name in Settings.model_fields:
        assert f"| `INTEGRATOR_{name.upper()}` |" in settings
    for kind in (errors.Transient, errors.TotalMismatch, errors.LeaseLost):
        assert f"| `{kind.__name__}` |" in taxonomy
    assert "gAAAA" not in settings


def test_given_the_taxonomy_when_its_page_is_made_then_what_happens_is_what_the_rules_say() -> None:
    rows = [line.split(" | ") for line in reference.errors_page().splitlines() if line.startswith("| `")]
    then = {row[0].strip("| `"): row[2] for row in rows}

    assert then["Transient"] == then["Bug"] == "retrying"
    assert then["Unauthorized"] == "pending, its gate shut"
    assert {name for name, state in then.items() if state == "held"} == {
        *("Rejected", "Unmapped", "TotalMismatch", "NotFound", "Conflict", "Deleted", "KillsWorker")
    }
    assert then["LeaseLost"] == "left to its holder"


def test_given_the_page_of_states_when_read_then_it_names_every_state_and_no_other() -> None:
    text = (FOLDER / "states.md").read_text()
    drawn = text.partition("```mermaid")[2].partition("```")[0]
    words = {word for line in drawn.splitlines() if "-->" in line for word in line.split(":")[0].split("-->")}
    assert {word.strip() for word in words} - {"[*]"} == {state.value for state in State}
    assert all(f"| `{state.value}` |" in text for state in State)
