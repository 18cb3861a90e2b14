"""The reference pages that are made from the code: `python -m integrator.reference docs/reference` writes them.

A test fails when a page is older than what it is made from.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from integrator import errors
from integrator.clock import EPOCH
from integrator.config import Settings
from integrator.ledger.records import Claimed
from integrator.ledger.transitions import KILLS_ITS_WORKER, VANISHED_LIMIT
from integrator.metrics import METRICS, OTHER, SHOPS, VALUES_A_LABEL
from integrator.retry import BUG_ATTEMPTS, THROTTLED_LIMIT, Verb, decide
from integrator.shops import base

MADE = "<!-- Made from the code by `make docs`; changes here are overwritten. -->"
ONLY_TESTS = "Only tests set it"
ALL_ERRORS = (errors, base)
"""The modules that hold the taxonomy."""


def pages() -> dict[str, str]:
    """Every page by its file's name."""
    return {"settings.md": settings_page(), "errors.md": errors_page(), "metrics.md": metrics_page()}


def settings_page() -> str:
    """All settings: variable, default, meaning."""
    rows = [_setting(name, field) for name, field in Settings.model_fields.items()]
    ours = [row for row in rows if ONLY_TESTS not in row]
    tests = [row for row in rows if ONLY_TESTS in row]
    return _page(
        "Settings",
        "Every process reads them from its environment when it starts; a wrong one stops it, with its name. AWS",
        "credentials are not among them: boto3 finds them by its own chain (environment, profile, role). Nor are",
        "tenants, shops and management systems: they stand in a file, see",
        "[examples/tenants.yaml](../../examples/tenants.yaml).",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
        *ours,
        "",
        "## For tests",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
        *tests,
    )


def _setting(name: str, field: FieldInfo) -> str:
    described = (field.description or "").replace("|", "\\|")
    limits = ", ".join(_limit(one) for one in field.metadata if _limit(one))
    meaning = f"{described} ({limits})" if limits else described
    return f"| `{Settings.model_config['env_prefix']}{name.upper()}` | {_default(field.default)} | {meaning} |"


def _default(value: Any) -> str:
    if value is None or value in ("", ()) or isinstance(value, SecretStr):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _limit(constraint: Any) -> str:
    names = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    return ", ".join(
        f"{words} {getattr(constraint, name):g}" for name, words in names.items() if hasattr(constraint, name)
    )


def errors_page() -> str:
    """The taxonomy: class, when, what becomes of the sync, what a person does."""
    rows = [
        f"| `{kind.__name__}` | {_when(kind)} | {_then(kind)} | {kind.remedy} |"
        for kind in _kinds(errors.IntegratorError)
    ]
    return _page(
        "Errors",
        "What stops a sync. The class and the fingerprint group errors that one fix releases together:",
        "`celery -A tasks syncs errors` lists the groups, `celery -A tasks syncs list` the syncs, each with its",
        "message and what to do, and `celery -A tasks syncs show` one of them with all that was tried. What the",
        "other side answered may hold personal data: only `show --detail` has it, no log and no listing.",
        "",
        "| class | when | then the sync is | what a person does |",
        "|---|---|---|---|",
        *rows,
        f"| `{KILLS_ITS_WORKER}` | {VANISHED_LIMIT} workers in a row died while they worked on the sync. | held | "
        "Look at the workers' last log lines and memory, then requeue. |",
        "",
        f"A `Bug` is held at the {BUG_ATTEMPTS}rd time in a row; `Throttled` at the {THROTTLED_LIMIT}th, if other "
        "syncs of the same",
        "management system are done meanwhile. A connector may say of a single error what to do better than its",
        "class does. See [states.md](states.md) for what the states mean.",
    )


def _kinds(kind: type[errors.IntegratorError]) -> Iterator[type[errors.IntegratorError]]:
    """The classes of the taxonomy as they stand in the code, each before what is made of it."""
    for module in ALL_ERRORS:
        for one in vars(module).values():
            made = isinstance(one, type) and issubclass(one, kind) and one is not kind
            if made and one.__module__ == module.__name__:
                yield one


def _when(kind: type[errors.IntegratorError]) -> str:
    """The first paragraph of its docstring, on one line."""
    text = (inspect.getdoc(kind) or "").partition("\n\n")[0]
    return re.sub(r" \(PROTOCOL \w+\)", "", " ".join(text.split()))


def _then(kind: type[errors.IntegratorError]) -> str:
    """What the ledger does at the first time."""
    error = kind("", not_before=EPOCH) if issubclass(kind, errors.Settling) else kind("")
    claimed = Claimed(sync_id=1, gate_id=1, claim=1, wanted=1, attempts=0, throttled=0)
    outcome = decide(error, claimed, progressed=False, alike=0, neighbours_succeed=False, random=lambda: 0.0)
    waits = outcome.gate_wait_seconds is not None or issubclass(kind, errors.QuotaUsedUp)
    shut = ", its gate shut" if outcome.credentials_refused or waits else ""
    return "left to its holder" if outcome.verb is Verb.ABANDON else f"{outcome.verb.value}{shut}"


def metrics_page() -> str:
    """All metrics: name and labels, kind, who has it, meaning."""
    rows = [
        f"| `{one.name}`{_listed(one.labels)} | {one.kind.value} | {one.where} | {one.meaning} |"
        for one in METRICS
    ]
    return _page(
        "Metrics",
        "What `/metrics` shows to Prometheus on the port that `INTEGRATOR_METRICS_PORT` names; there `/healthz`",
        "says whether a worker consumes, and whether the scheduler goes round. The receiver also shows them where",
        "it listens, to whoever has `INTEGRATOR_METRICS_TOKEN`.",
        "",
        "| metric and labels | kind | process | meaning |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Labels are bounded: one has at most {VALUES_A_LABEL} values in a process (tenants and shops",
        f"{SHOPS}), and what is beyond counts as `{OTHER}`. No label holds an order's id, an address or somebody",
        "else's text. Alert rules and a dashboard are in `infra/monitoring`; what each alert means, in",
        "[At 3 a.m.](../howto/night.md).",
    )


def _listed(labels: tuple[str, ...]) -> str:
    return f" {', '.join(f'`{label}`' for label in labels)}" if labels else ""


def _page(title: str, *lines: str) -> str:
    return "\n".join([f"# {title}", "", MADE, "", *lines]) + "\n"


def main() -> None:
    """Write all pages into the folder that is named."""
    for name, text in pages().items():
        (Path(sys.argv[1]) / name).write_text(text)


if __name__ == "__main__":
    main()
