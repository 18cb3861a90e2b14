"""What our code must not contain, found in its syntax tree (DESIGN §5, §10)."""

import ast
from collections.abc import Callable, Iterator

Rule = Callable[[str, ast.AST], bool]

LATER = {"eta", "countdown", "autoretry_for", "DelaySeconds"}
SENDING = {"apply_async", "send_task", "send_message", "send_message_batch", "delay"}
PUBLISHING = "tasks/publishing.py"
TRANSPORT = "tasks/transport_send.py"
"""It puts on SQS what publishing gives it, and nothing of its own."""
WAY_OUT = {"integrator/http.py", "integrator/http_deadline.py", "tasks/transport_receive.py"}
"""Where calls get their deadlines: ours, and the SQS receives' of kombu's client, which has none."""

CLIENTS = {"requests", "httpx", "aiohttp", "urllib3", "pycurl", "http.client", "urllib.request"}
AMOUNTS = {"amount", "total", "price", "unit_price", "discount", "tax", "shipping", "fee", "tolerance"}
IDS_ONLY = {"tenant", "sync_id"}


def _called(node: ast.AST) -> str:
    """The last name of what a call calls."""
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _receiver(node: ast.AST) -> str:
    function = node.func if isinstance(node, ast.Call) else None
    value = function.value if isinstance(function, ast.Attribute) else None
    return value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")


def _keywords(node: ast.AST) -> dict[str | None, ast.expr]:
    return {one.arg: one.value for one in node.keywords} if isinstance(node, ast.Call) else {}


def _keys(node: ast.AST) -> set[object]:
    keys = node.keys if isinstance(node, ast.Dict) else []
    return {key.value for key in keys if isinstance(key, ast.Constant)}


def _names(node: ast.AST) -> set[str]:
    return {one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "") for one in ast.walk(node)}


def sent_for_later(_path: str, node: ast.AST) -> bool:
    """`eta`, `countdown`, `autoretry_for`, `DelaySeconds`: as an argument, a key, a name or an attribute."""
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
    return bool(LATER & {name, *_keywords(node), *_keys(node)})


def delayed_message(path: str, node: ast.AST) -> bool:
    """`delay_seconds` on a message: kombu passes it on to SQS. The ledger's own delays are its own."""
    named = "delay_seconds" in {*_keywords(node), *_keys(node)}
    return named and (path == PUBLISHING or _called(node) in SENDING | {"publish"})


def celery_retry(_path: str, node: ast.AST) -> bool:
    """`.retry(` of a task, which publishes. `transitions.retry` is the ledger's."""
    return _called(node) == "retry" and _receiver(node) != "transitions"


def sent_elsewhere(path: str, node: ast.AST) -> bool:
    """A message that is sent anywhere but in tasks/publishing."""
    elsewhere = path not in {PUBLISHING, TRANSPORT}
    return elsewhere and isinstance(node, ast.Call) and _called(node) in SENDING


def payload_in_message(path: str, node: ast.AST) -> bool:
    """Anything but the ids in a message."""
    if path != PUBLISHING or _called(node) not in SENDING:
        return False
    given = _keywords(node)
    ids = given.get("args")
    only_ids = isinstance(ids, ast.Tuple) and {getattr(one, "attr", "") for one in ids.elts} <= IDS_ONLY
    return not only_ids or bool({"kwargs", "headers", None} & given.keys()) or "argsrepr" not in given


def time_without_zone(_path: str, node: ast.AST) -> bool:
    """A time that some machine's zone decides."""
    if not isinstance(node, ast.Call):
        return False
    called, given = _called(node), _keywords(node)
    of_datetime = _receiver(node) in {"datetime", "date", "dt"}
    zone = given.get("tz") or given.get("tzinfo")
    nowhere = isinstance(given.get("tzinfo"), ast.Constant)
    made = called == "datetime" and len(node.args) < 8 and zone is None
    asked = of_datetime and called in {"now", "fromtimestamp"} and zone is None
    asked = asked and len(node.args) < (1 if called == "now" else 2)
    never = of_datetime and called in {"utcnow", "utcfromtimestamp", "today", "strptime"}
    in_utc = isinstance(node.func, ast.Attribute) and _called(node.func.value) == "astimezone"
    return made or asked or never or (called == "replace" and nowhere and not in_utc)


def _about_money(path: str) -> bool:
    return path.startswith("integrator/documents/") or path.endswith(("_order.py", "shops/payload.py"))


def float_for_money(path: str, node: ast.AST) -> bool:
    """A float where amounts are made, or an amount that becomes one anywhere."""
    if _about_money(path) and isinstance(node, ast.Constant) and isinstance(node.value, float):
        return True
    if _called(node) == "float":
        return _about_money(path) or bool(AMOUNTS & _names(node))
    if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
        named = node.arg if isinstance(node, ast.arg) else getattr(node.target, "id", "")
        return "float" in _names(node.annotation) and (_about_money(path) or named in AMOUNTS)
    is_json = _called(node) == "loads" and _about_money(path)
    return is_json and (_receiver(node) != "json" or "parse_float" not in _keywords(node))


def call_without_deadline(path: str, node: ast.AST) -> bool:
    """An HTTP library beside integrator/http.py, or an AWS client with the library's own patience."""
    if _called(node) == "client" and _receiver(node) == "boto3":
        return "config" not in _keywords(node)
    if path in WAY_OUT:
        return False
    modules: list[str] = []
    if isinstance(node, ast.Import):
        modules = [one.name for one in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules = [node.module or "", *(f"{node.module}.{one.name}" for one in node.names)]
    return any(f"{module}.".startswith(f"{client}.") for module in modules for client in CLIENTS)


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        sent_for_later,
        delayed_message,
        celery_retry,
        sent_elsewhere,
        payload_in_message,
        time_without_zone,
        float_for_money,
        call_without_deadline,
    )
}


def broken(path: str, source: str) -> Iterator[str]:
    """What in a file breaks a rule: `path:line rule`."""
    for node in ast.walk(ast.parse(source)):
        for name, rule in RULES.items():
            if rule(path, node):
                yield f"{path}:{getattr(node, 'lineno', 0)} {name}"
