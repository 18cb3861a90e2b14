"""What can happen to a webhook on its way, or in a stranger's hands: each mutation makes other bytes of it."""

import base64
import random
from collections.abc import Callable

from benchmarks.hostile_webhooks import SHOPS, Webhook


def flip(dice: random.Random, text: bytes) -> bytes:
    """One to three bits of it changed."""
    changed = bytearray(text or b"\x00")
    for _ in range(dice.randint(1, 3)):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def cut(dice: random.Random, text: bytes) -> bytes:
    """The first part of it."""
    return text[: dice.randrange(len(text) + 1)]


def extend(dice: random.Random, text: bytes) -> bytes:
    """Something put in at any place."""
    at = dice.randrange(len(text) + 1)
    return text[:at] + dice.randbytes(dice.randint(1, 20)) + text[at:]


def drop(dice: random.Random, text: bytes) -> bytes:
    """Something taken out of any place."""
    at = dice.randrange(len(text) + 1)
    return text[:at] + text[at + dice.randint(1, 20) :]


TEXTS = (flip, flip, cut, extend, drop)


def resized(one: Webhook, body: bytes) -> Webhook:
    """Another body, and the length that is its own."""
    fields = tuple(f for f in one.fields if not f.startswith(b"Content-Length"))
    return Webhook(one.line, (*fields, b"Content-Length: %d" % len(body)), body)


def change_field(one: Webhook, at: int, *now: bytes) -> Webhook:
    """Other lines in the place of one field."""
    return Webhook(one.line, (*one.fields[:at], *now, *one.fields[at + 1 :]), one.body)


def signature_at(one: Webhook) -> int:
    """Which of its fields is the signature."""
    names = tuple(shop.signature.encode() for shop in SHOPS)
    return next(at for at, line in enumerate(one.fields) if line.startswith(names))


def nothing(_dice: random.Random, one: Webhook, _other: Webhook) -> bytes:
    """The webhook as it was signed."""
    return bytes(one)


def body_changed(dice: random.Random, one: Webhook, _other: Webhook) -> bytes:
    """Another body, of the length that is announced."""
    return bytes(resized(one, dice.choice(TEXTS)(dice, one.body)))


def body_flipped(dice: random.Random, one: Webhook, _other: Webhook) -> bytes:
    """Bits of the body."""
    return bytes(Webhook(one.line, one.fields, flip(dice, one.body)))


def signature_changed(dice: random.Random, one: Webhook, _other: Webhook) -> bytes:
    """The signature's value."""
    at = signature_at(one)
    name, _, value = one.fields[at].partition(b": ")
    return bytes(change_field(one, at, name + b": " + dice.choice(TEXTS)(dice, value)))


def signature_respelt(dice: random.Random, one: Webhook, _other: Webhook) -> bytes:
    """The same signature in other spaces, cases and base64, or under another name."""
    at = signature_at(one)
    name, _, value = one.fields[at].partition(b": ")
    forms = (
        name + b":" + value + b" \t",
        name.lower() + b":\t" + value,
        name + b": " + value.rstrip(b"="),
        name + b": " + value.swapcase(),
        name.replace(b"-", b"_") + b": " + value,
        name.removeprefix(b"X-") + b": " + value,
        name + b": " + base64.b64decode(value).hex().encode(),
    )
    return bytes(change_field(one, at, dice.choice(forms)))


def field_changed(dice: random.Random, one: Webhook, _other: Webhook) -> bytes:
    """Any field, its name too."""
    at = dice.randrange(len(one.fields))
    return bytes(change_field(one, at, dice.choice(TEXTS)(dice, one.fields[at])))


def field_dropped_or_doubled(dice: random.Random, one: Webhook, other: Webhook) -> bytes:
    """A field less, or twice, or with another webhook's."""
    at = dice.randrange(len(one.fields))
    now = dice.choice(((), (one.fields[at],) * 2, (one.fields[at], dice.choice(other.fields))))
    return bytes(change_field(one, at, *now))


def line_changed(dice: random.Random, one: Webhook, _other: Webhook) -> bytes:
    """Method, path or version."""
    return bytes(Webhook(dice.choice(TEXTS)(dice, one.line), one.fields, one.body))


def anything_changed(dice: random.Random, one: Webhook, _other: Webhook) -> bytes:
    """Any place of the whole request."""
    return dice.choice(TEXTS)(dice, bytes(one))


def spliced(dice: random.Random, one: Webhook, other: Webhook) -> bytes:
    """One webhook with a part of another, or the first of one and the rest of another."""
    halves = cut(dice, bytes(one)) + bytes(other)[dice.randrange(len(bytes(other))) :]
    signed = change_field(one, signature_at(one), other.fields[signature_at(other)])
    forms: tuple[Callable[[], bytes], ...] = (
        lambda: halves,
        lambda: bytes(signed),
        lambda: bytes(resized(one, other.body)),
        lambda: bytes(Webhook(other.line, one.fields, one.body)),
        lambda: bytes(one) + bytes(other),
        lambda: cut(dice, bytes(one)) + bytes(other),
    )
    return dice.choice(forms)()


def streamed(dice: random.Random, one: Webhook, _other: Webhook) -> bytes:
    """The body in chunks, which may be changed, and with a length beside them now and then."""
    at, chunks = 0, b""
    while at < len(one.body):
        part = one.body[at : at + dice.randint(1, 1_000)]
        chunks += b"%x\r\n%b\r\n" % (len(part), part)
        at += len(part)
    chunks += b"0\r\n\r\n"
    keep_length = dice.random() < 0.2
    fields = tuple(f for f in one.fields if keep_length or not f.startswith(b"Content-Length"))
    sent = dice.choice(TEXTS)(dice, chunks) if dice.random() < 0.5 else chunks
    return bytes(Webhook(one.line, (*fields, b"Transfer-Encoding: chunked"), sent))


MUTATIONS = (
    nothing,
    nothing,
    body_changed,
    body_flipped,
    signature_changed,
    signature_respelt,
    field_changed,
    field_dropped_or_doubled,
    line_changed,
    anything_changed,
    spliced,
    streamed,
)
