"""A certificate authority of the tests' own, that speaks ACME as Let's Encrypt does: pebble, with its DNS."""

import datetime
import ipaddress
import os
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sandbox.system_ports import free_port
from sandbox.system_process import Process, answers_tcp
from tests.debian import binaries


@dataclass(frozen=True)
class Authority:
    """Where it is; who trusts `certificate` may ask it, and who trusts `issuer()` takes what it issues."""

    directory: str
    certificate: Path
    management: str

    def issuer(self) -> str:
        """The root of what it issues, as PEM."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        with urllib.request.urlopen(f"{self.management}/roots/0", context=context, timeout=10) as answer:
            found: bytes = answer.read()
            return found.decode()


@contextmanager
def authority(folder: Path, *, http_port: int, https_port: int, valid_seconds: int) -> Iterator[Authority]:
    """Start it. To it every name is at 127.0.0.1, and who wants a certificate must answer at these ports there."""
    programs = binaries("pebble")
    dns, names, acme, management = (free_port() for _ in range(4))
    certificate, key = _certificate(folder)
    config = folder / "pebble.json"
    settings = {
        "listenAddress": f"127.0.0.1:{acme}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(certificate),
        "privateKey": str(key),
        "httpPort": http_port,
        "tlsPort": https_port,
        "certificateValidityPeriod": valid_seconds,
    }
    config.write_bytes(orjson.dumps({"pebble": settings}))
    mock = {"-dns01": f"127.0.0.1:{dns}", "-management": f"127.0.0.1:{names}", "-defaultIPv6": ""}
    mock |= dict.fromkeys(("-http01", "-https01", "-tlsalpn01"), "")
    resolver = [str(programs / "pebble-challtestsrv"), *(word for pair in mock.items() for word in pair)]
    pebble = [str(programs / "pebble"), "-config", str(config), "-dnsserver", f"127.0.0.1:{dns}"]
    environment = {"PATH": os.environ["PATH"], "PEBBLE_VA_NOSLEEP": "1"}
    processes = [
        Process("dns", resolver, environment, folder / "dns.log", answers_tcp(dns)),
        Process("pebble", pebble, environment, folder / "pebble.log", answers_tcp(acme)),
    ]
    try:
        for process in processes:
            process.start()
            process.wait_ready()
        yield Authority(f"https://127.0.0.1:{acme}/dir", certificate, f"https://127.0.0.1:{management}")
    finally:
        for process in processes:
            process.kill()


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key: the authority is asked over HTTPS, too."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pebble")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    signed = made.add_extension(address, critical=False).sign(key, hashes.SHA256())
    certificate, private = folder / "authority.pem", folder / "authority.key"
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    kind = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()))
    return certificate, private
