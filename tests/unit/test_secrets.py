"""Credentials at rest: sealed, opened, rotated, and refused with a sentence for people."""

import pytest

from integrator.secrets import KeyRing, SecretsError, key_ring, new_key

SECRETS = {"webhook": ["s3cret", "0ld"], "token": "tök€n"}


def test_given_a_value_when_sealed_then_only_the_ring_opens_it() -> None:
    ring = KeyRing((new_key(),))
    sealed = ring.seal(SECRETS)
    assert b"s3cret" not in sealed
    assert ring.seal(SECRETS) != sealed
    assert ring.open(sealed) == SECRETS


def test_given_two_keys_when_sealed_then_the_first_seals_and_both_open() -> None:
    old, new = new_key(), new_key()
    by_old = KeyRing((old,)).seal(SECRETS)
    ring = KeyRing((new, old))
    assert ring.open(by_old) == SECRETS
    assert KeyRing((new,)).open(ring.seal(SECRETS)) == SECRETS


def test_given_an_old_value_when_rotated_then_the_old_key_may_go() -> None:
    old, new = new_key(), new_key()
    rotated = KeyRing((new, old)).rotate(KeyRing((old,)).seal(SECRETS))
    assert KeyRing((new,)).open(rotated) == SECRETS
    with pytest.raises(SecretsError, match="INTEGRATOR_SECRET_KEYS"):
        KeyRing((old,)).open(rotated)


@pytest.mark.parametrize(
    ("keys", "says"),
    [((), "new-key"), (("short",), "no Fernet key"), ((new_key(), "ä" * 44), "no Fernet key")],
)
def test_given_no_usable_key_when_a_ring_is_made_then_a_sentence_says_what_to_do(
    keys: tuple[str, ...], says: str
) -> None:
    with pytest.raises(SecretsError, match=says):
        KeyRing(keys)


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_given_a_cut_value_when_opened_then_refused_without_its_text(keep: int) -> None:
    ring = KeyRing((new_key(),))
    with pytest.raises(SecretsError) as refused:
        ring.open(ring.seal(SECRETS)[:keep])
    assert "s3cret" not in str(refused.value)


def test_given_the_environment_when_asked_for_the_ring_then_it_seals_and_opens() -> None:
    assert key_ring().open(key_ring().seal(SECRETS)) == SECRETS
