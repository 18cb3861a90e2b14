"""The commands: what `make` lists is there, sets itself up once, and says what is missing."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[0].split()
SETUPS = {"setup-run", "setup-dev"}


def run(*command: str, cwd: Path = ROOT, **env: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | env
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def recipe(target: str) -> list[str]:
    """The commands of a target as they are run, those that set it up left out."""
    lines = run("make", "--dry-run", target).stdout.splitlines()
    return [line for line in lines if not line.startswith("bin/setup")]


def test_given_no_target_when_make_runs_then_it_lists_every_command_with_a_line_each() -> None:
    listed = [line.split(maxsplit=2) for line in run("make").stdout.splitlines()]
    assert {words[1] for words in listed} == set(TARGETS) - SETUPS
    assert all(words[0] == "make" and len(words) == 3 for words in listed)


def test_given_the_rules_when_read_then_each_is_declared_and_each_declared_one_exists() -> None:
    rules = re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)
    assert sorted(rules) == sorted(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_given_a_target_when_make_is_asked_what_it_would_do_then_it_knows(target: str) -> None:
    ran = run("make", "--dry-run", target)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout


@pytest.mark.parametrize(
    ("target", "lock"), [("demo", "run"), ("serve", "run"), ("test", "dev"), ("check", "dev"), ("hooks", "dev")]
)
def test_given_a_target_when_it_runs_then_it_sets_itself_up_first(target: str, lock: str) -> None:
    assert run("make", "--dry-run", target).stdout.splitlines()[0] == f"bin/setup {lock}"


def test_given_arguments_when_a_command_runs_then_it_gets_them() -> None:
    for target in ("demo", "serve", "test", "faults"):
        lines = run("make", "--dry-run", target, "ARGS=--some thing").stdout.splitlines()
        assert lines[-1].endswith(" --some thing")


def test_given_the_commit_hooks_when_read_then_they_are_the_commands_of_make_check() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert [hook["entry"] for hook in hooks[0]["hooks"]] == recipe("check")


def test_given_a_clone_when_its_hooks_are_asked_for_then_git_checks_before_a_commit_and_keeps_a_hook_of_ones_own(
    tmp_path: Path,
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "setup").symlink_to("/bin/true")
    (tmp_path / "Makefile").write_text(MAKEFILE)
    run("git", "init", "-q", cwd=tmp_path)
    hook = tmp_path / ".git" / "hooks" / "pre-commit"

    for _ in range(2):
        assert run("make", "hooks", cwd=tmp_path).returncode == 0
        assert hook.read_text() == "#!/bin/sh\nexec make check\n"
        assert os.access(hook, os.X_OK)

    hook.write_text("mine\n")
    ran = run("make", "hooks", cwd=tmp_path)
    assert ran.returncode != 0
    assert "There is a hook already" in ran.stderr
    assert hook.read_text() == "mine\n"


# .ci/run


def ci(folder: Path, check: str, test: str) -> "subprocess.CompletedProcess[str]":
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
    (folder / "Makefile").write_text(f"check:\n\t@{check}\ntest:\n\t@{test}\n")
    return run(str(folder / ".ci" / "run"), cwd=folder)


def test_given_the_ci_script_when_read_then_its_stages_only_call_make() -> None:
    stages = re.findall(r"^stage (.+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert stages == ["make check", "make test"]


def test_given_stages_that_pass_when_ci_runs_then_it_tells_each_time_and_passes(tmp_path: Path) -> None:
    ran = ci(tmp_path, "echo checked", "echo tested $$CI")
    assert ran.returncode == 0
    assert "checked" in ran.stdout
    assert "tested true" in ran.stdout
    assert re.findall(r"== (make \w+): \d+ s, passed", ran.stdout) == ["make check", "make test"]


@pytest.mark.parametrize(("check", "test"), [("exit 3", "true"), ("true", "exit 3")])
def test_given_a_stage_that_fails_when_ci_runs_then_it_fails_and_says_which(
    tmp_path: Path, check: str, test: str
) -> None:
    ran = ci(tmp_path, check, test)
    assert ran.returncode != 0
    assert re.search(f"== make {'check' if check == 'exit 3' else 'test'}: \\d+ s, failed", ran.stdout)


# bin/preflight and bin/setup


def programs(folder: Path, **scripts: str) -> Path:
    """A PATH with the bare minimum and these scripts."""
    path = folder / "path"
    path.mkdir()
    for name in ("sh", "id", "dirname", "cat", "cksum", "pwd", "grep", "head", "tail"):
        (path / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    for name, script in scripts.items():
        (path / name).write_text(f"#!/bin/sh\n{script}\n")
        (path / name).chmod(0o755)
    return path


OLD = 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac'
NO_VENV = 'case "$2" in *ensurepip*) exit 1;; *print*) echo 3.11;; esac'


@pytest.mark.parametrize(
    ("scripts", "missing", "packages"),
    [
        ({}, ["python3 of 3.11 or newer (found: none)", "make", "git"], "python3 python3-venv make git"),
        ({"python3": OLD, "make": "", "git": ""}, ["(found: Python 3.9.2)"], "python3 python3-venv"),
        ({"python3": NO_VENV, "make": "", "git": ""}, ["python3-venv of Python 3.11"], "python3.11-venv"),
        ({"python3": "", "make": ""}, ["git"], "git"),
        ({"python3": "", "git": ""}, ["make"], "make"),
    ],
    ids=["everything", "old python", "no venv", "no git", "no make"],
)
def test_given_something_missing_when_checked_then_it_is_named_with_the_line_that_installs_it(
    tmp_path: Path, scripts: dict[str, str], missing: list[str], packages: str
) -> None:
    path = programs(tmp_path, **scripts)
    ran = run(str(path / "sh"), str(ROOT / "bin" / "preflight"), PATH=str(path))
    assert ran.returncode == 1
    assert ran.stdout == ""
    first, second = ran.stderr.splitlines()
    assert first.startswith("Missing on this machine: ")
    assert all(name in first for name in missing)
    assert second.endswith(f"apt install {packages}")


def test_given_an_old_python3_and_a_newer_one_beside_it_when_checked_then_the_newer_is_used(
    tmp_path: Path,
) -> None:
    path = programs(tmp_path, **{"python3": OLD, "python3.12": "", "make": "", "git": ""})
    ran = run(str(path / "sh"), str(ROOT / "bin" / "preflight"), PATH=str(path))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "python3.12\n", "")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that can be set up, with a Python that only notes what pip was asked for."""
    tree = tmp_path / "a tree"
    for name in ("bin/setup", "bin/preflight", "requirements/run.txt", "requirements/build.in"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    (tree / "requirements" / "dev.txt").write_text("")
    (tree / "pyproject.toml").write_text("")
    python = tree / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$2" != pip ] || { echo "$*" >>calls; cat answer; exit $(cat status); }\n')
    python.chmod(0o755)
    (tree / "answer").write_text("")
    (tree / "status").write_text("0")
    return tree


def calls(tree: Path) -> int:
    return len((tree / "calls").read_text().splitlines()) if (tree / "calls").exists() else 0


def test_given_a_tree_that_is_set_up_when_set_up_again_then_nothing_happens_until_a_lock_changes(
    tree: Path,
) -> None:
    first = run("bin/setup", "dev", cwd=tree)
    assert (first.returncode, calls(tree)) == (0, 2), first.stderr
    assert "--require-hashes -r requirements/dev.txt" in (tree / "calls").read_text()

    again = [run("bin/setup", what, cwd=tree) for what in ("dev", "run")]
    assert [(ran.returncode, ran.stdout) for ran in again] == [(0, "")] * 2
    assert calls(tree) == 2

    (tree / "requirements" / "dev.txt").write_text("# changed\n")
    assert run("bin/setup", "run", cwd=tree).stdout == ""
    assert "requirements/dev.txt" in run("bin/setup", "dev", cwd=tree).stdout
    assert calls(tree) == 4


def test_given_a_tree_that_was_moved_when_set_up_then_it_is_installed_anew(tree: Path) -> None:
    run("bin/setup", "run", cwd=tree)
    moved = tree.rename(tree.parent / "elsewhere")
    assert "requirements/run.txt" in run("bin/setup", "run", cwd=moved).stdout


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("ERROR: No matching distribution found for alembic==1.20.1", "pip reaches no registry that has them"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "make lock"),
        ("noise\nERROR: something else\nmore noise", "ERROR: something else"),
    ],
    ids=["no network", "another package", "anything else"],
)
def test_given_an_installation_that_fails_when_set_up_then_a_line_says_what_to_do_and_it_is_tried_again(
    tree: Path, answer: str, said: str
) -> None:
    (tree / "answer").write_text(f"{answer}\n")
    (tree / "status").write_text("1")
    ran = run("bin/setup", "run", cwd=tree)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert len(ran.stderr.splitlines()) <= 3
    assert ran.stderr.endswith("Details: .venv/install.log\n")

    (tree / "status").write_text("0")
    assert run("bin/setup", "run", cwd=tree).returncode == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_given_a_folder_of_somebody_else_when_set_up_then_a_line_says_what_to_do(tree: Path) -> None:
    (tree / ".venv").chmod(0o555)
    ran = run("bin/setup", "run", cwd=tree)
    (tree / ".venv").chmod(0o755)
    assert ran.returncode == 1
    assert re.fullmatch(r".*/a tree/\.venv can't be written by \S+\. Clone into .*\n", ran.stderr)
    assert calls(tree) == 0
