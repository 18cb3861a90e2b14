"""What the pages have people type for docker-compose.yml: each command exists, and the first make a whole .env."""

import re
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from tests.unit.test_compose import ROOT, TOOLS, services
from tests.unit.test_readme import FENCE, PAGES

TAKES_SERVICES = {"exec", "run", "logs", "stop", "restart", "up"}


def lines() -> list[tuple[str, str]]:
    """Each command of Compose that a page shows, or a script runs, with the page's or script's name."""
    found = []
    for page in PAGES:
        text = page.read_text()
        spans = re.findall(r"`(docker compose [^`\n]+)`", FENCE.sub("", text))
        blocks = [line for _, block in FENCE.findall(text) for line in block.splitlines()]
        shown = [match[0] for line in blocks if (match := re.search(r"docker compose .*", line))]
        found += [(page.name, re.split(r" [|<>&] ?|'| celery=", line)[0].strip()) for line in (*spans, *shown)]
    for script in ("backup", "restore"):
        shown = re.findall(
            r"docker compose [^#;<|&}\n]+",
            re.sub(r"^#.*", "", (ROOT / "bin" / script).read_text(), flags=re.MULTILINE),
        )
        found += [(script, line) for line in shown]
    return found


@cache
def flags(command: str) -> set[str]:
    """The options of one of Compose's commands, or of Compose itself, as its help names them."""
    words = [str(TOOLS / "docker-compose"), *([command] if command else []), "--help"]
    told = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"(?<!\S)--?[a-zA-Z][\w-]*", told))


@pytest.mark.parametrize(("page", "line"), lines())
def test_given_a_command_of_compose_on_a_page_when_looked_up_then_it_its_options_and_its_service_exist(
    page: str, line: str
) -> None:
    words = shlex.split(line)[2:]
    takes_value = {"--profile", "--since", "--scale", "--tail"}
    while words[0].startswith("--"):
        assert words[0].partition("=")[0] in flags(""), line
        words = words[2 if words[0] in takes_value else 1 :]
    command, rest = words[0], words[1:]
    while rest and rest[0].startswith("-"):
        assert rest[0].partition("=")[0] in flags(command), line
        rest = rest[2 if rest[0] in takes_value else 1 :]
    if command in TAKES_SERVICES and rest:
        named = rest[:1] if command in {"exec", "run"} else rest
        assert {word for word in named if not word.startswith("-")} <= services().keys(), line


@pytest.mark.parametrize("name", ["compose.md", "one-machine.md"])
def test_given_the_first_commands_when_typed_then_compose_has_all_that_it_asks_for(
    name: str, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "howto" / name).read_text()
    until_docker = r"^```sh\n(cp --no-clobber \.env\.example .*?)^(?:docker|```)"
    (block,) = re.findall(until_docker, text, re.MULTILINE | re.DOTALL)
    shutil.copy(ROOT / ".env.example", tmp_path)
    for _ in range(2):  # typed again it changes nothing that is set
        subprocess.run(["bash", "-euc", block], cwd=tmp_path, check=True)
    made = tmp_path / ".env"
    values = dict(re.findall(r"^(\w+)=(.+)$", made.read_text(), re.MULTILINE))
    assert made.stat().st_mode & 0o077 == 0
    Fernet(values["INTEGRATOR_SECRET_KEYS"])
    assert len({values["POSTGRES_PASSWORD"], values["VALKEY_PASSWORD"]}) == 2
    command = [
        str(TOOLS / "docker-compose"),
        f"--project-directory={ROOT}",
        f"--env-file={made}",
        "config",
        "--quiet",
    ]
    ran = subprocess.run(command, env={"HOME": "/"}, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
