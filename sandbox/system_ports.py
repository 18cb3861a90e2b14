"""Ports on 127.0.0.1: a free one that stays ours over restarts, or the sentence that a given one is in use."""

import errno
import random
import socket

from sandbox.system_process import SystemFailed

BELOW_EPHEMERAL = range(20_000, 32_000)
"""Linux takes outgoing connections' ports from 32768 on. One of those may be gone when a killed server is back."""


def free_port(taken: frozenset[int] = frozenset()) -> int:
    """Choose a port that nobody listens on, and that no outgoing connection takes. Raises SystemFailed."""
    dice = random.SystemRandom()
    for _ in range(200):
        port = dice.choice(BELOW_EPHEMERAL)
        if port not in taken and _is_free("127.0.0.1", port):
            return port
    raise SystemFailed("No free port was found between 20000 and 32000 on 127.0.0.1.")


def require_free(host: str, port: int, remedy: str) -> None:
    """Raise SystemFailed, with what to do, when nobody can listen there."""
    error = _try_to_listen(host, port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        raise SystemFailed(f"Port {port} on {host} is in use. {remedy}")
    raise SystemFailed(f"Nobody can listen on port {port} of {host} ({error.strerror}). {remedy}")


def _is_free(host: str, port: int) -> bool:
    return _try_to_listen(host, port) is None


def _try_to_listen(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: old connections don't count
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None
