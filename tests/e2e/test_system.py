"""The supervisor: real processes that start, die, come back, and are gone in the end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

from integrator.ledger import tenants
from integrator.ledger.engine import Ledger
from integrator.secrets import KeyRing, new_key
from sandbox.system import System
from sandbox.system_process import ROOT, Process, SystemFailed, get_status, says

SLEEPS = "print('ready', flush=True); import time; time.sleep(600)"


def wait_until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not true():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.05)


def family(system: System) -> list[psutil.Process]:
    """All processes of a system, with those that they started themselves."""
    pids = [process.pid for process in system.processes.values() if process.pid]
    return [one for pid in pids for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with System(tmp_path_factory.mktemp("a system") / "of its own", workers=1) as running:
        yield running
        processes = family(running)
        assert len(processes) >= len(running.processes) + 1, "gunicorn has a worker of its own"
    assert gone(processes)


@pytest.fixture
def whole(system: System) -> System:
    """The system with all of its parts up, whatever the test before did."""
    system.restart_dead()
    for process in system.processes.values():
        process.wait_ready()
    return system


def test_given_a_started_system_when_asked_then_every_part_does_its_work(whole: System) -> None:
    assert list(whole.processes) == ["sqs", "erp", "receiver", "worker-1", "scheduler"]
    assert get_status(f"{whole.receiver_url}/readyz") == 200
    assert get_status(f"{whole.erp_url}/_sandbox") == 200
    assert get_status(f"{whole.sqs_url}/_sandbox") == 200
    whole.check()


def test_given_a_control_plane_when_started_then_workers_answer_over_it_and_flower_asks_for_the_password_it_keeps(
    tmp_path: Path,
) -> None:
    system = System(tmp_path / "system", workers=1, erp=False, auto_restart=True)
    system.add_control_plane(flower=True)
    control = system.control
    assert control is not None
    with system:
        assert {"redis", "flower"} <= set(system.processes)
        assert get_status(f"{control.flower_url}/") == 401
        password = system.folder.path / "flower-password"
        assert password.read_text().strip() in control.flower_note()
        private = [password, system.folder.env, system.folder.path / "redis.conf"]
        assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
        assert control.redis_url in system.folder.env.read_text()

        def status() -> tuple[int, str]:
            argv = [sys.executable, "-m", "celery", "-A", "tasks", "status", "--timeout=5"]
            asked = subprocess.run(argv, env=system.environment, capture_output=True, text=True, check=False)
            return asked.returncode, asked.stdout

        wait_until(lambda: status()[0] == 0)
        system.processes["redis"].kill()
        wait_until(lambda: system.restarts["redis"] == 1 and status()[0] == 0)
        assert f"worker-1@{socket.gethostname()}: OK" in status()[1]
    again = System(tmp_path / "system", workers=1, erp=False)
    again.add_control_plane(flower=True)
    assert again.control is not None
    kept = again.control.flower_env({"FLOWER_PORT": "1", "A": "b"})
    assert kept == {"A": "b", "FLOWER_BASIC_AUTH": f"operator:{password.read_text().strip()}"}
    assert password.read_text().strip() not in again.control.flower_note(), "it is shown once"


def test_given_a_machine_without_redis_when_started_then_there_is_no_control_plane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonesuch")
    monkeypatch.setattr("sandbox.redis.files", lambda _name: None)
    system = System(tmp_path / "system")
    system.add_control_plane(flower=True)
    assert system.control is None
    assert "INTEGRATOR_CONTROL_PLANE_URL" not in system.environment
    named = System(tmp_path / "named", extra_env={"INTEGRATOR_CONTROL_PLANE_URL": "redis://elsewhere/1"})
    named.add_control_plane(flower=False)
    assert named.control is not None
    assert (named.control.own_redis, named.control.redis_url) == (False, "redis://elsewhere/1")


def test_given_a_part_that_dies_when_checked_then_it_is_named_with_its_log_and_can_be_restarted(
    whole: System,
) -> None:
    worker = whole.processes["worker-1"]
    before = whole.restarts["worker-1"]
    worker.kill()

    with pytest.raises(SystemFailed, match=r"worker-1 was killed \(signal 9\)[^$]*worker-1\.log:\n[^$]*ready"):
        whole.check()
    assert whole.restart_dead() == ["worker-1"]
    worker.wait_ready()

    assert whole.restarts["worker-1"] == before + 1
    whole.check()


def test_given_its_id_in_a_file_when_a_shell_kills_a_part_then_the_file_names_the_one_that_comes_after_it(
    whole: System,
) -> None:
    worker = whole.processes["worker-1"]
    file = whole.folder.pid_file("worker-1")
    first = worker.pid

    subprocess.run(["sh", "-c", f"kill -9 $(cat '{file}')"], check=True)
    wait_until(lambda: not worker.alive)
    assert whole.restart_dead() == ["worker-1"]

    assert file.read_text() == f"{worker.pid}\n"
    assert worker.pid != first


def test_given_a_killed_receiver_when_restarted_then_it_answers_at_the_same_address(whole: System) -> None:
    receiver = whole.processes["receiver"]
    workers = psutil.Process(receiver.pid).children()

    receiver.restart()
    receiver.wait_ready()

    assert get_status(f"{whole.receiver_url}/readyz") == 200
    assert gone(workers)


def test_given_a_running_system_when_another_wants_its_folder_then_one_line_says_so(whole: System) -> None:
    second = System(whole.folder.path, workers=1)
    with pytest.raises(SystemFailed, match=r"^Another system runs in .*/of its own\. Stop it first\.$"):
        second.start()
    assert second.processes == {}
    whole.check()


def test_given_its_settings_file_when_another_shell_reads_it_then_its_commands_reach_the_system(
    whole: System,
) -> None:
    command = f". '{whole.folder.env}'; exec '{sys.executable}' -m celery -A tasks syncs audit"
    ran = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "0 in limbo\n")
    assert whole.folder.env.stat().st_mode & 0o077 == 0


def test_given_auto_restart_when_a_part_is_killed_then_it_comes_back_by_itself(tmp_path: Path) -> None:
    system = System(tmp_path, workers=0, erp=False, auto_restart=True)
    with system:
        sqs = system.processes["sqs"]
        sqs.kill()
        wait_until(lambda: sqs.alive and get_status(f"{system.sqs_url}/_sandbox") == 200)
        assert system.restarts == {"sqs": 1}
        processes = family(system)
    assert gone(processes)
    assert system.restarts == {"sqs": 1}, "stopping is no death"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"env", "lock", "logs", "ledger.sqlite3"}, "no ids, no side files of SQLite"


def test_given_a_part_that_refuses_to_start_when_started_then_it_says_why_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    system = System(tmp_path, workers=0, erp=False, extra_env={"INTEGRATOR_GROUP_COMMIT": "0"})
    with pytest.raises(SystemFailed, match=r"receiver ended with status 1[^$]*INTEGRATOR_GROUP_COMMIT"):
        system.start()
    assert not any(process.alive for process in system.processes.values())


def test_given_a_supervisor_that_is_killed_when_it_is_gone_then_its_children_are_too(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from sandbox.system import System\n"
        "system = System(Path(sys.argv[1]), workers=1, erp=False).start()\n"
        "print(*(process.pid for process in system.processes.values()), flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout
        pids = [int(pid) for pid in supervisor.stdout.readline().split()]
        children = [child for pid in pids for child in (psutil.Process(pid), *psutil.Process(pid).children())]
        supervisor.kill()
    assert len(children) == 5, "SQS, the receiver and its worker, a Celery worker, the scheduler"
    wait_until(lambda: gone(children))


def test_given_a_port_in_use_when_serving_on_it_then_one_line_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "sandbox.serve", f"--port={port}", f"--folder={tmp_path}"]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    remedy = "Stop what listens there, or choose another with --port (0: a free one)."
    assert (ran.returncode, ran.stdout) == (1, f"Port {port} on 127.0.0.1 is in use. {remedy}\n")


@pytest.mark.parametrize(
    ("arguments", "settings", "says"),
    [
        (["--port=65536"], {}, "--port: must be a whole number from 0 to 65535"),
        (["--workers=0"], {}, "--workers: must be a whole number from 1 to 64"),
        (["--folder=/proc/nothing"], {}, "/proc/nothing: No such file or directory. Check its owner"),
        (["--folder=/dev/null"], {}, "/dev/null: File exists. Check its owner"),
        ([], {"INTEGRATOR_SECRET_KEYS": "short"}, "INTEGRATOR_SECRET_KEYS holds something that is no Fernet key"),
        ([], {"INTEGRATOR_LEDGER_URL": "sqlite:///"}, "INTEGRATOR_LEDGER_URL is no file"),
        ([], {"INTEGRATOR_BIND": "unix:/run/x"}, "INTEGRATOR_BIND is unix:/run/x; here it must be HOST:PORT"),
        ([], {"INTEGRATOR_BIND": "192.0.2.1:8000"}, "Nobody can listen on port 8000 of 192.0.2.1"),
    ],
)
def test_given_what_makes_no_sense_when_serving_then_one_line_says_so(
    arguments: list[str], settings: dict[str, str], says: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "sandbox.serve", f"--folder={tmp_path}", *arguments]
    ran = subprocess.run(
        command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode != 0
    assert says in ran.stdout + ran.stderr
    assert (ran.stdout + ran.stderr).count("\n") == 1


def test_given_a_ledger_that_is_not_there_when_serving_on_it_then_one_line_says_so(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://nobody:secret-word@/nothing?host={tmp_path}"
    command = [sys.executable, "-m", "sandbox.serve", "--port=0", f"--folder={tmp_path}"]
    environment = {**os.environ, "INTEGRATOR_LEDGER_URL": url}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode == 1
    assert said.startswith("The ledger at ")
    assert said.count("\n") == 1
    assert "secret-word" not in said


@contextmanager
def heard(number: signal.Signals) -> Iterator[None]:
    """A block whose children hear this signal, even where the tests themselves run under `nohup`."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_given_a_served_system_when_it_is_told_to_end_then_it_stops_and_keeps_key_and_ledger(
    number: signal.Signals, tmp_path: Path
) -> None:
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-m", "sandbox.serve"]  # as `serve &`
    command += ["--port=0", "--workers=1", f"--folder={tmp_path}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INTEGRATOR_")}
    with (
        heard(signal.SIGHUP),
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as served,
    ):
        assert served.stdout
        said = ""
        while "Ctrl-C" not in said:
            line = served.stdout.readline()
            assert line, said
            said += line
        children = psutil.Process(served.pid).children(recursive=True)
        served.send_signal(number)
        said += served.stdout.read()
    assert served.returncode == 0, said
    assert gone(children)
    assert "/webhooks/<platform>/<shop key>" in said
    assert (tmp_path / "secret-key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "ledger.sqlite3").exists()


# Single processes


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    made = []

    def make(code: str) -> Process:
        argv = [sys.executable, "-c", code]
        process = Process("part", argv, dict(os.environ), tmp_path / "part.log", says("^ready$"))
        made.append(process)
        process.start()
        return process

    yield make
    for process in made:
        process.kill()


def test_given_a_process_that_ignores_sigterm_when_terminated_then_it_is_killed(
    make: Callable[[str], Process],
) -> None:
    process = make(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}")
    process.wait_ready()
    process.terminate(0.2)
    assert process.exit_code == -signal.SIGKILL
    assert not process.wanted


def test_given_a_process_with_a_child_when_it_dies_then_its_child_dies(make: Callable[[str], Process]) -> None:
    process = make(
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1); {SLEEPS}"
    )
    process.wait_ready()
    children = psutil.Process(process.pid).children()
    os.kill(process.pid or 0, signal.SIGKILL)
    wait_until(lambda: not process.alive)
    assert len(children) == 1
    wait_until(lambda: gone(children))


def test_given_a_process_that_ends_when_waited_for_then_its_end_is_told_with_its_last_lines(
    make: Callable[[str], Process],
) -> None:
    process = make("print(*range(100), sep='\\n'); raise SystemExit(3)")
    with pytest.raises(SystemFailed) as failed:
        process.wait_ready()
    first, *lines = str(failed.value).splitlines()
    assert first.startswith("part ended with status 3. The end of ")
    assert first.endswith("part.log:")
    assert lines == [f"  {number}" for number in range(92, 100)]


def test_given_a_process_that_is_never_ready_when_waited_for_then_it_is_told_and_still_runs(
    make: Callable[[str], Process],
) -> None:
    process = make("import time; time.sleep(600)")
    with pytest.raises(
        SystemFailed, match=r"^part is not ready after 0\.2 s\. It wrote nothing to .*part\.log\.$"
    ):
        process.wait_ready(0.2)
    assert process.alive


def test_given_a_restarted_process_when_asked_what_it_said_then_the_earlier_run_is_left_out(
    make: Callable[[str], Process],
) -> None:
    process = make(SLEEPS)
    process.wait_ready()
    process.env["PART"] = "second"
    process.argv[-1] = "import os; print(os.environ['PART'], flush=True)"
    process.restart()
    wait_until(lambda: not process.alive)
    assert process.said() == "second\n"
    assert (process.starts, process.exit_code) == (2, 0)


def test_given_the_example_file_when_applied_then_it_fits(sqlite_ledger: Ledger) -> None:
    file = tenants.File.model_validate(yaml.safe_load((ROOT / "examples" / "tenants.yaml").read_text()))
    names = ("ACME_ERP_TOKEN", "ACME_SHOP_KEY", "ACME_WEBHOOK_SECRET", "ACME_ACCESS_TOKEN")
    secrets = {name: f"{name.lower()}-{'x' * 24}" for name in names}
    with sqlite_ledger.write() as connection:
        changes = tenants.apply(connection, file, secrets, KeyRing((new_key(),))).lines
    assert [change.partition(":")[0] for change in changes] == [
        "tenant acme",
        "management system acme/erp",
        "shop acme/shop",
    ]
