"""The documents: README in two languages says the same, every command that is shown exists, no link is dead."""

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from celery.bin.control import control, inspect, status
from celery.bin.events import events
from celery.bin.worker import worker
from flower.command import flower

from integrator.config import Settings
from tasks import commands
from tasks.gate_commands import gates_group
from tasks.plan_command import plan
from tasks.queue_commands import queues_group
from web import create_app

ROOT = Path(__file__).resolve().parents[2]
ENGLISH, SPANISH = ROOT / "README.md", ROOT / "README.es.md"
PAGES = sorted([ENGLISH, SPANISH, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:\S*/)?(?:flask --app web|celery -A tasks|make)\b[^`\n]*")
PATH = re.compile(
    r"(?:bin|benchmarks|docs|examples|integrator|requirements|samples|sandbox|tasks|tests|web)/[\w./-]*\w/?"
)
"""A file or folder of this project, as the text names it between backticks."""
LINK = re.compile(r"\[[^]]*]\(([^)#\s]*)(?:#([^)\s]+))?[^)]*\)")
"""Where a link leads: the page, and the heading in it."""


def prose(path: Path) -> str:
    """A page without its blocks."""
    return FENCE.sub("", path.read_text())


def headings(path: Path) -> list[str]:
    return re.findall(r"^(#+) .+$", prose(path), re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """What links to a page's headings end in, as GitHub makes it of them."""
    titles = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def blocks(path: Path) -> list[tuple[str, str]]:
    """The blocks; of a picture, which has words in it, only that there is one."""
    return [(kind, "" if kind == "mermaid" else text) for kind, text in FENCE.findall(path.read_text())]


def shown(path: Path) -> list[str]:
    """Every command line of ours on a page: in blocks as lines, in the text between backticks."""
    text = path.read_text()
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(path))
    lines = [line for kind, block in FENCE.findall(text) if kind in {"sh", "text"} for line in block.splitlines()]
    found = [COMMAND.match(line.strip().partition("  #")[0]) for line in (*lines, *spans)]
    return [match[0].strip() for match in found if match]


# Two languages


def test_given_two_languages_when_compared_then_headings_and_blocks_are_the_same() -> None:
    assert headings(ENGLISH) == headings(SPANISH)
    assert len(headings(ENGLISH)) > 6
    assert blocks(ENGLISH) == blocks(SPANISH)
    assert sorted(LINK.findall(prose(ENGLISH))[1:]) == sorted(LINK.findall(prose(SPANISH))[1:])


# Commands


def root() -> click.Group:
    """All of ours and what we show of Celery's: what `flask --app web` and `celery -A tasks` add to their own."""
    theirs = {"worker": worker, "status": status, "inspect": inspect, "control": control, "events": events}
    celery = click.Group("celery", commands={**theirs, "flower": flower})
    groups = (commands.syncs_group, queues_group, gates_group)
    for command in (commands.scheduler, *groups, plan, commands.pause, commands.resume):
        celery.add_command(command)
    flask = click.Group("flask", commands=dict(create_app(Settings()).cli.commands))
    return click.Group("all", commands={"flask": flask, "celery": celery})


def check(line: str) -> None:
    """Raise AssertionError unless the command, its subcommand and each of its options exist."""
    words = shlex.split(line)
    name = words[0].rpartition("/")[2]
    if name == "make":
        asked = subprocess.run(["make", "--dry-run", *words[1:2]], cwd=ROOT, capture_output=True, check=False)
        assert asked.returncode == 0, line
        return
    command: click.Command = root().commands[name]
    for word in words[3:]:
        if isinstance(command, click.Group):
            assert word in command.commands, line
            command = command.commands[word]
        elif word.startswith("--"):
            assert any(word.partition("=")[0] in option.opts for option in command.params), line
        elif word.startswith("samples/"):
            assert (ROOT / word).exists(), line


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_given_a_page_when_its_commands_are_looked_up_then_each_exists(path: Path) -> None:
    for line in shown(path):
        check(line)


def test_given_a_command_that_is_not_there_when_looked_up_then_that_is_noticed() -> None:
    for line in ("make nothing", "flask --app web tenants dance", "celery -A tasks syncs list --colour red"):
        assert COMMAND.fullmatch(line)
        with pytest.raises(AssertionError):
            check(line)


def test_given_the_pages_when_searched_then_every_command_of_ours_is_shown_somewhere() -> None:
    said = " ".join(line for path in PAGES for line in shown(path))
    for name, group in (
        ("flask --app web", root().commands["flask"]),
        ("celery -A tasks", root().commands["celery"]),
    ):
        assert isinstance(group, click.Group)
        for command in group.commands.values():
            parts = command.commands if isinstance(command, click.Group) else {"": None}
            for part in parts:
                assert f"{name} {command.name} {part}".strip() in said, f"no page shows {command.name} {part}"


# Links


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_given_a_page_when_its_links_are_followed_then_each_leads_somewhere(path: Path) -> None:
    for link, anchor in LINK.findall(prose(path)):
        if not link.startswith(("http:", "https:")):
            assert (path.parent / link).exists(), f"{path.name}: {link}"
        if anchor:
            assert anchor in anchors(path.parent / link if link else path), f"{path.name}: {link}#{anchor}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_given_a_page_when_the_files_that_it_names_are_looked_up_then_each_is_there(path: Path) -> None:
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(path)):
        if PATH.fullmatch(span):
            assert (ROOT / span).exists(), f"{path.name}: {span}"
