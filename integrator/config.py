"""All settings, read once from the environment (prefix `INTEGRATOR_`); the one place where they are named."""

import re
from functools import cache
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

LEDGER_DRIVERS = frozenset({"sqlite", "sqlite+pysqlite", "postgres", "postgresql", "postgresql+psycopg"})
"""What may stand before `://` in the ledger's URL; every PostgreSQL is spoken to with psycopg."""

LEDGER_URL_FORMS = "`sqlite:///PATH` or `postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME`"
"""What the ledger's URL looks like."""

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

_BIND = re.compile(r"unix:.+|(?:\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")


def checked_ledger_url(value: str) -> str:
    """The URL, if it can be a ledger's. Raises ValueError."""
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in LEDGER_DRIVERS:
        raise ValueError(f"is no ledger's URL; write {LEDGER_URL_FORMS}")
    if url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}:
        raise ValueError(f"is no file, so that processes could not share it; write {LEDGER_URL_FORMS}")
    return value


class Settings(BaseSettings):
    """What an installation sets. Everything has a default that suits one machine, but the encryption keys.

    AWS credentials and the region are not here: boto3 finds them by its own chain (environment, profile, role).
    """

    model_config = SettingsConfigDict(
        env_prefix="INTEGRATOR_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    ledger_url: str = Field(
        "sqlite:///var/integrator.sqlite3",
        description="SQLAlchemy URL of the ledger: `sqlite:///PATH` or `postgresql+psycopg://…`.",
    )
    ledger_pool_size: int = Field(
        8, ge=1, le=200, description="Connections that one process keeps open to a PostgreSQL ledger at most."
    )
    ledger_processes: int = Field(
        4,
        ge=1,
        description="Processes of the whole installation that work on a PostgreSQL ledger: web processes, workers "
        "and schedulers. With the pool's size they must leave a fifth of its max_connections free.",
    )
    ledger_disk: str | None = Field(
        None,
        description="A folder on the ledger's disk, whose free space the scheduler measures. Default: "
        "SQLite's folder; of a PostgreSQL elsewhere only its own server can tell.",
    )
    allow_lossy_ledger: bool = Field(
        False,
        description="Start although the ledger may lose what it acknowledged "
        "(PostgreSQL with synchronous_commit or fsync off). For throw-away data only.",
    )
    secret_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Fernet keys that encrypt credentials at rest, separated by commas: the first encrypts, "
        "all decrypt. Make one with `flask --app web ledger new-key`.",
    )
    sqs_endpoint_url: str | None = Field(
        None, description="SQS endpoint when it is not AWS's own, e.g. `http://127.0.0.1:9324`."
    )
    sqs_region: str = Field("us-east-1", description="AWS region of the queues.")
    sqs_queue_url_prefix: str | None = Field(
        None,
        description="What stands before the queue's name in its URL, e.g. "
        "`https://sqs.eu-west-1.amazonaws.com/123456789012/`. Default: the endpoint's account 000000000000.",
    )
    sqs_queue_prefix: str = Field("integrator-", description="What stands before each queue's own name.")
    control_plane_url: SecretStr | None = Field(
        None,
        description="Redis for remote control and events of workers, and for the limits, e.g. "
        "`redis://:PASSWORD@127.0.0.1:6379/0`; `rediss://` with TLS. The same for all processes, and one database "
        "number for each installation. Empty: none; the ledger keeps the limits by itself then.",
    )
    control_plane_events: int = Field(
        10_000,
        ge=1,
        description="Events that wait for Redis in a worker at most; the oldest of more are dropped and counted.",
    )
    flower_without_password: bool = Field(
        False, description="Start Flower although it asks nobody for a password. It can stop workers."
    )
    breaker_failures: int = Field(
        5, ge=1, le=100, description="Calls to a management system that fail in a row until its breaker opens."
    )
    breaker_seconds: float = Field(
        15.0,
        gt=0,
        le=3_600,
        description="How long a breaker stays open at first, until one sync tries the system; twice as long each "
        "time that one fails.",
    )
    breaker_longest_seconds: float = Field(
        300.0,
        gt=0,
        le=3_600,
        description="How long a breaker stays open at most. Once closed for that long, it begins anew.",
    )
    worker_threads: int = Field(16, ge=1, le=1_000, description="Syncs that one worker process runs at once.")
    bind: str = Field("127.0.0.1:8000", description="Where the web server listens: `HOST:PORT` or `unix:PATH`.")
    web_processes: int = Field(
        1, ge=1, le=64, description="Web processes; with an SQLite ledger there is one whatever this says."
    )
    web_threads: int = Field(64, ge=1, le=1_000, description="Requests that one web process works on at once.")
    web_read_seconds: float = Field(
        15.0,
        gt=0,
        le=300,
        description="How long a client may take to send one request, headers and body, before it is cut off.",
    )
    web_answer_seconds: float = Field(
        4.0,
        gt=0,
        le=4.5,
        description="How long a webhook waits for the ledger before it is answered 503; shops give up at 5 s.",
    )
    max_body_bytes: int = Field(
        10 * 1024 * 1024, ge=1, description="A webhook's largest body in bytes; more is answered 413."
    )
    keep_deliveries_days: int = Field(
        30,
        ge=3,
        description="Days that deliveries of finished syncs are kept, unless the tenant's own `keep_days` says "
        "otherwise; and deduplication keys.",
    )
    keep_requests_days: int = Field(
        30,
        ge=3,
        description="Days that the exact requests of finished syncs are kept, for they hold personal data; that "
        "they were sent, when, and what was answered stays known. The tenant's own `keep_days` goes first.",
    )
    keep_attempts_days: int = Field(
        90,
        ge=3,
        description="Days that the attempts of finished syncs are kept, unless the tenant's own `keep_days` says "
        "otherwise.",
    )
    keep_attempts: int = Field(
        5, ge=0, description="Latest attempts of each finished sync that are kept however old they are."
    )
    max_open_deliveries: int = Field(
        100_000,
        ge=1,
        description="Open deliveries (later than what is applied) of one shop before it is answered 503, unless "
        "its own `max_open_deliveries` says otherwise.",
    )
    group_commit: int = Field(
        64, ge=1, le=1_000, description="Webhooks that one transaction of the receiver holds at most."
    )
    clock_offset_seconds: float = Field(
        0.0, description="Added to the database's clock. Only tests set it, to play hours and days."
    )
    failpoints: str = Field(
        "", description="Only tests set it: `NAME=PROBABILITY,…`, where this process kills itself."
    )
    failpoint_seed: int = Field(0, description="Only tests set it: the seed of those probabilities.")
    failpoint_part: str = Field(
        "", description="Only tests set it: the part that this process is, and which start of it."
    )
    failpoint_log: str | None = Field(
        None, description="Only tests set it: the file to which each such kill appends its name and part."
    )
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    metrics_token: SecretStr | None = Field(
        None,
        description="Bearer token that opens /metrics where the receiver listens; without one the page does not "
        "exist there.",
    )
    metrics_host: str = Field(
        "127.0.0.1", description="The address of the metrics port. Whoever reaches it needs no token."
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="Where a receiver, worker or scheduler serves `/metrics` and `/healthz`; 0: nowhere. Each on "
        "one machine needs a port of its own.",
    )
    traces_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="The share of orders whose way is traced with OpenTelemetry; 0: none. It needs the extra "
        "`traces`; where to is said by `OTEL_EXPORTER_OTLP_ENDPOINT`.",
    )
    worker_silent_seconds: float = Field(
        60.0,
        ge=1,
        description="How long a worker may neither ask SQS for messages nor be full before its `/healthz` turns "
        "red.",
    )

    @field_validator("metrics_port")
    @classmethod
    def _not_the_receivers(cls, port: int, info: ValidationInfo) -> int:
        """Where the receiver listens for everybody, the metrics need their token."""
        if port and str(info.data.get("bind", "")).rpartition(":")[2] == str(port):
            raise ValueError("must not be the port of INTEGRATOR_BIND")
        return port

    @field_validator("secret_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("ledger_url")
    @classmethod
    def _read_ledger_url(cls, value: str) -> str:
        return checked_ledger_url(value)

    @field_validator("sqs_endpoint_url", "sqs_queue_url_prefix")
    @classmethod
    def _read_url(cls, value: str | None) -> str | None:
        if value and not _is_http(value):
            raise ValueError("is no URL of http or https with a host")
        if value and "@" in urlsplit(value).netloc:
            raise ValueError("holds a user or password: boto3 finds AWS credentials by itself")
        return value

    @field_validator("bind")
    @classmethod
    def _read_bind(cls, value: str) -> str:
        found = _BIND.fullmatch(value)
        if found is None or int(found["port"] or 0) > 65_535:
            raise ValueError("is no address to listen at; write HOST:PORT, like 127.0.0.1:8000, or unix:PATH")
        return value

    @field_validator("log_level")
    @classmethod
    def _read_log_level(cls, value: str) -> str:
        if value.upper() not in LOG_LEVELS:
            raise ValueError(f"is none of {', '.join(LOG_LEVELS)}")
        return value.upper()

    @field_validator("control_plane_url")
    @classmethod
    def _redis(cls, value: SecretStr | None) -> SecretStr | None:
        given = value.get_secret_value() if value else ""
        if given and not given.startswith(("redis://", "rediss://", "redis+socket://")):
            raise ValueError("begins with none of redis://, rediss://, redis+socket://")
        return value if given else None

    def queue_name(self, queue: str) -> str:
        """The name in SQS of one of our queues."""
        return f"{self.sqs_queue_prefix}{queue}"

    def queue_url(self, queue: str) -> str:
        """The URL in SQS of one of our queues."""
        endpoint = self.sqs_endpoint_url or f"https://sqs.{self.sqs_region}.amazonaws.com"
        prefix = self.sqs_queue_url_prefix or f"{endpoint.rstrip('/')}/000000000000/"
        return f"{prefix.rstrip('/')}/{self.queue_name(queue)}"


def _is_http(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


@cache
def settings() -> Settings:
    """The process's settings, read at the first call."""
    return Settings()
