"""The control plane of a system on one machine: a Redis of its own, unless one is named, and Flower."""

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from sandbox import redis
from sandbox.system_process import shown

SETTING = "INTEGRATOR_CONTROL_PLANE_URL"
FLOWER_USER = "operator"


class ControlParts:
    """What the parts need to know. Flower listens on the loopback and asks for a password, kept in `folder`.

    `given`: the URL of a Redis that is there already. Raises redis.NoRedis when there is none and none can be
    started.
    """

    def __init__(self, folder: Path, port: Callable[[], int], given: str | None, *, flower: bool) -> None:
        self._folder = folder
        self.own_redis = not given
        if self.own_redis:
            redis.server_program()
        self._redis_port, self._redis_password = port(), secrets.token_urlsafe(24)
        self.redis_url = given or redis.url(self._redis_port, self._redis_password)
        self.flower_port = port() if flower else None
        self.made_password: str | None = None

    @property
    def flower_url(self) -> str:
        """Where Flower answers."""
        return f"http://127.0.0.1:{self.flower_port}"

    def redis_argv(self) -> list[str]:
        """What starts the Redis; its configuration is written."""
        return redis.command(self._folder, self._redis_port, self._redis_password)

    def redis_listens_on(self) -> int:
        """The port of the Redis of its own."""
        return self._redis_port

    def flower_argv(self) -> list[str]:
        """What starts Flower, for Python."""
        return ["-m", "celery", "-A", "tasks", "flower", f"--port={self.flower_port}", "--address=127.0.0.1"]

    def flower_env(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Flower's environment, with the password that it asks for; one is made when there is none yet."""
        kept = {name: value for name, value in environment.items() if not name.startswith("FLOWER_")}
        return {**kept, "FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{self._password()}"}

    def flower_note(self) -> str:
        """Where Flower is and how to get in. The password is shown once, when it was made."""
        path = self._folder / "flower-password"
        how = f"password {self.made_password}, kept in" if self.made_password else "password in"
        return f"{self.flower_url}  (user {FLOWER_USER}, {how} {shown(path)})"

    def _password(self) -> str:
        path = self._folder / "flower-password"
        if not path.exists():
            self.made_password = secrets.token_urlsafe(18)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f"{self.made_password}\n")
        return path.read_text().strip()
