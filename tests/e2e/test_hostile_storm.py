"""Thousands of mutated webhooks at the real receiver: the short form of `benchmarks.hostile`, and its judge."""

import random

from benchmarks.hostile import Score, measure
from benchmarks.hostile_mutations import MUTATIONS
from benchmarks.hostile_webhooks import Webhook, requests_in, webhook

REQUESTS = 3_000
GROWTH_MB = 40
"""Of the short form, whose warm-up is short, too; the long one is held to 20."""


def test_given_thousands_of_mutated_webhooks_when_sent_then_nothing_forged_is_taken_and_nothing_is_lost() -> None:
    found = measure(REQUESTS, seed=1, clients=4)

    assert {name: found[name] for name in ("false_accepts", "false_rejects", "lost")} == {
        "false_accepts": 0,
        "false_rejects": 0,
        "lost": 0,
    }
    assert (found["server_errors"], found["errors_logged"]) == (0, 0), found
    assert found["rss_growth_mb"] < GROWTH_MB
    assert found["kept"] > REQUESTS / 10  # else nobody was asked anything
    assert found["answers"]["401"] > REQUESTS / 10


def webhooks() -> tuple[Webhook, Webhook]:
    dice = random.Random(1)
    return webhook(dice, 1), webhook(dice, 2)


def shaken(one: Webhook, body: bytes) -> bytes:
    return bytes(Webhook(one.line, one.fields, body))


def test_given_answers_that_are_wrong_when_judged_then_each_is_told() -> None:
    one, other = webhooks()
    forged = shaken(one, one.body[:-1] + b"!")
    elsewhere = bytes(one).replace(one.line, one.line.replace(b"-key-", b"-kez-"))
    for name, sent, found in (
        ("a changed body", forged, [200]),
        ("a key of nobody", elsewhere, [200]),
        ("more answers than requests", bytes(one), [200, 200]),
        ("the second of two", bytes(other) + forged, [200, 200]),
        ("no request", b"\x00", [200]),
    ):
        score = Score()
        score.judge(name, sent, found)
        assert len(score.false_accepts) == 1, name

    score = Score()
    score.judge("1 nothing", bytes(one), [401])
    assert (score.false_accepts, len(score.false_rejects)) == ([], 1)


def test_given_genuine_webhooks_when_judged_then_they_are_owed() -> None:
    one, other = webhooks()
    score = Score()

    score.judge("1 nothing", bytes(one), [200])
    score.judge("two", bytes(one) + bytes(other), [200, 200])

    assert (score.false_accepts, score.false_rejects) == ([], [])
    assert len(score.owed) in {1, 2}  # some topics are nobody's to keep


def test_given_a_seed_when_mutated_twice_then_the_bytes_are_the_same_and_can_be_read() -> None:
    one, other = webhooks()
    for mutation in MUTATIONS:
        for seed in range(50):
            made = mutation(random.Random(seed), one, other)
            assert made == mutation(random.Random(seed), one, other), mutation
            list(requests_in(made))
