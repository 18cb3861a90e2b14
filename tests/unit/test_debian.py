from pathlib import Path

import pytest

from tests import debian


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_package_that_cannot_be_had_is_said_to_be_missing_and_is_a_failure_in_ci(
    ci: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="pebble: no apt-get"):
        debian.binaries("pebble")
    assert not list(debian.cache().iterdir())


def test_a_package_that_is_unpacked_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (debian.cache() / "pebble").mkdir()
    assert debian.binaries("pebble") == tmp_path / "integrator" / "debian" / "pebble" / "usr" / "bin"
