"""Hostile bodies: samples of which any field can be replaced by any text, and what can't be read at all."""

import base64
import copy
import hashlib
import hmac
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).resolve().parents[1] / "samples"

Path_ = tuple[str | int, ...]

MARK = "@@the value@@"

TOKENS = {
    "null": "null",
    "true": "true",
    "a number": "7",
    "a fraction": "0.1",
    "negative": "-1",
    "20 digits": "9" * 20,
    "400 digits": "9" * 400,
    "a fraction of 400 digits": "0." + "9" * 400,
    "1e999999": "1e999999",
    "-1e-999999": "-1e-999999",
    "empty text": '""',
    "text": '"x y"',
    "digits": '"12"',
    "20 digits as text": '"' + "9" * 20 + '"',
    "no-break digits": '"\\u0661"',
    "a lone surrogate": '"\\ud800"',
    "NUL": '"\\u0000"',
    "the first moment": '"0001-01-01T00:00:00Z"',
    "before the first moment": '"0001-01-01T00:00:00+14:00"',
    "the last moment": '"9999-12-31T23:59:59.999999Z"',
    "an empty list": "[]",
    "a list": "[null, 1]",
    "a list of objects": '[{}, {"id": -1}]',
    "an empty object": "{}",
    "an object": '{"id": "x", "amount": [], "shop_money": {}}',
    "deep": "[" * 300 + "]" * 300,
}
"""What is put in a field's place: JSON as it stands in the body, since not all of it can be made by `json`."""


def bomb(megabytes: int) -> bytes:
    """So much of the letter A as gzip would send it: a hundredth of a percent of that."""
    packer = zlib.compressobj(9, wbits=31)
    packed = [packer.compress(b"A" * 1_000_000) for _ in range(megabytes)]
    return b"".join([*packed, packer.flush()])


TIMES = b'{"updated_at": "2026-03-01T12:00:00Z", "date_modified_gmt": "2026-03-01T12:00:00", '
PASSED_OVER = {
    "5,000 digits": TIMES + b'"id": 91, "total": ' + b"9" * 5_000 + b"}",
    "an exponent of 30 digits": TIMES + b'"id": 92, "total": 1e' + b"9" * 30 + b"}",
    "the id twice": TIMES + b'"id": 1, "id": 93}',
    "a key twice, deep": TIMES + b'"id": 94, "x": [{"a": 1, "a": 1}]}',
}
"""What can't be read either, though the receiver, which looks for the order's id only, finds that: 91 and on."""

UNREADABLE = {
    "nothing": b"",
    "NUL": b"\x00" * 100,
    "no JSON": b"<order id='1'/>",
    "cut short": b'{"id": 1, "note": "',
    "more than one": b'{"id": 1}{"id": 2}',
    "a comment": b'{"id": 1} // 2',
    "a list of orders": b'[{"id": 1}]',
    "text": b'"1"',
    "UTF-16": '{"id": 1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"id": 1}',
    "no UTF-8": b'{"id": 1, "note": "\xff"}',
    "a surrogate in UTF-8": b'{"id": 1, "note": "\xed\xa0\x80"}',
    "too short UTF-8": b'{"id": 1, "note": "\xc0\x80"}',
    "a raw NUL": b'{"id": 1, "note": "\x00"}',
    "NaN": b'{"id": 1, "total": NaN}',
    "Infinity": b'{"id": 1, "total": [-Infinity]}',
    "lists in lists": b'{"id": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects in objects": b'{"id": 1, "x": ' + b'{"x":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "lists without an end": b'{"id": 1, "x": ' + b"[" * 100_000,
    "no id": b'{"updated_at": "2026-03-01T12:00:00Z"}',
    "a list as id": b'{"id": [1]}',
    "a fraction as id": b'{"id": 1.0}',
    "1e9 as id": b'{"id": 1e9}',
    "0 as id": b'{"id": 0}',
    "41 digits as id": b'{"id": ' + b"9" * 41 + b"}",
    "400 digits as id": b'{"id": ' + b"9" * 400 + b"}",
    "1e999999 as id": b'{"id": 1e999999}',
    "a path as id": b'{"id": "../1"}',
    "other digits as id": '{"id": "١٢"}'.encode(),
    "a line break after the id": b'{"id": "12\\n"}',
    "a bomb": bomb(20),
}
"""Signed bodies without a readable id. Most hold one which is none, since the body is no JSON that we read."""


def sample(name: str) -> Any:
    """One of the samples."""
    return json.loads((SAMPLES / f"{name}.json").read_text())


def replaced(order: Any, *changes: tuple[Path_, str]) -> bytes:
    """The order's body with JSON put in the place of some fields; of a field that is no longer there, nothing."""
    marked, tokens = copy.deepcopy(order), {}
    for number, (path, token) in enumerate(changes):
        mark = f"{MARK}{number}"
        if put(marked, path, mark):
            tokens[mark] = token
    text = json.dumps(marked)
    for mark, token in tokens.items():
        text = text.replace(json.dumps(mark), token)
    return text.encode()


def put(node: Any, path: Path_, value: Any) -> bool:
    """Set a field; whether there was one."""
    for name in path[:-1]:
        try:
            node = node[name]
        except (TypeError, KeyError, IndexError):
            return False
    if isinstance(node, str) or node is None:
        return False
    node[path[-1]] = value
    return True


def paths(node: Any, path: Path_ = ()) -> Iterator[Path_]:
    """All fields of an order; of a list, those of its first two."""
    items = node.items() if isinstance(node, dict) else enumerate(node[:2]) if isinstance(node, list) else ()
    for name, value in items:
        yield (*path, name)
        yield from paths(value, (*path, name))


def signed_by_nobody(body: bytes) -> dict[str, str]:
    """Signatures that are none of ours, by what is wrong with them."""
    mac = hmac.digest(b"the-new-secret", body, "sha256")
    good = base64.b64encode(mac).decode()
    swapped = good[:-2] + ("B=" if good[-2] != "B" else "C=")
    return {
        "of another body": base64.b64encode(hmac.digest(b"the-new-secret", body + b" ", "sha256")).decode(),
        "with another secret": base64.b64encode(hmac.digest(b"the-other-secret", body, "sha256")).decode(),
        "with no secret": base64.b64encode(hmac.digest(b"", body, "sha256")).decode(),
        "a bare hash": base64.b64encode(hashlib.sha256(body).digest()).decode(),
        "in hex": mac.hex(),
        "sha1": base64.b64encode(hmac.digest(b"the-new-secret", body, "sha1")).decode(),
        "without padding": good.rstrip("="),
        "with more padding": good + "=",
        "in other base64 digits that decode alike": swapped,
        "in lower case": good.lower(),
        "quoted": f'"{good}"',
        "named": f"sha256={good}",
        "twice": f"{good},{good}",
        "half of it": good[:22],
        "then more": good + "AAAA",
        "8,000 of them": good * 180,
    }
