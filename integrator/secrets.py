"""Credentials at rest: a ring of Fernet keys from the environment encrypts what the ledger stores."""

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from integrator.config import settings


class SecretsError(Exception):
    """The key ring is missing, malformed, or holds no key that opens what is stored. Its text is for people."""


def new_key() -> str:
    """A fresh key for INTEGRATOR_SECRET_KEYS."""
    return Fernet.generate_key().decode()


class KeyRing:
    """Seals and opens small JSON values. The first key seals, all open: put a new one in front to rotate."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        if not keys:
            raise SecretsError(
                "INTEGRATOR_SECRET_KEYS is not set, so stored credentials can't be read or written. "
                "Make a key with `flask --app web ledger new-key` and keep it where this process starts."
            )
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError as error:
            raise SecretsError(
                "INTEGRATOR_SECRET_KEYS holds something that is no Fernet key "
                "(32 bytes in urlsafe base64, several separated by commas)."
            ) from error

    def seal(self, value: object) -> bytes:
        """Encrypt a JSON value."""
        return self._fernet.encrypt(orjson.dumps(value))

    def open(self, sealed: bytes) -> dict[str, object]:
        """Decrypt what `seal` made. Raises SecretsError when none of the keys made it."""
        try:
            value: dict[str, object] = orjson.loads(self._fernet.decrypt(sealed))
        except InvalidToken as error:
            raise SecretsError(
                "None of the keys in INTEGRATOR_SECRET_KEYS opens the stored credentials. "
                "Add the key that they were stored with; it may stand behind the new one."
            ) from error
        return value

    def rotate(self, sealed: bytes) -> bytes:
        """Encrypt again with the first key. Raises SecretsError."""
        return self.seal(self.open(sealed))


def key_ring() -> KeyRing:
    """The ring that this process was given."""
    return KeyRing(tuple(key.get_secret_value() for key in settings().secret_keys))
