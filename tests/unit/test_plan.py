"""The pure middle of order syncs: which snapshot counts, and which steps are missing."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrator.documents import Order, PaymentState, Refund
from integrator.erps.base import Request, StepKind
from integrator.errors import Conflict
from integrator.ledger.deliveries import Candidate
from integrator.ledger.schema import StepState
from integrator.ledger.steps import Step
from integrator.sync.plan import (
    DELETED,
    Applied,
    Fetch,
    Keep,
    Known,
    Take,
    choose,
    content_digest,
    fold,
    known,
    plan,
)
from tests.support import T0, moved, order, refund

OPEN, LATER, CANCELLED = order(), order(quantity=2, minute=1), order(cancelled=True, minute=2)
VOIDED = moved(CANCELLED, payment_state=PaymentState.VOIDED)
FAILED = moved(OPEN, not_yet="failed")
FIRST, SECOND = refund("88", minute=1), refund("77", minute=2, amount="3.00")


def given_back(document: Order, *refunds: Refund) -> Order:
    return moved(document, refunds=refunds)


def holding(document: Order, *credited: Refund, cancelled: bool = False) -> Applied:
    digests = {one.external_id: one.digest() for one in credited}
    return Applied("SO1", content_digest(document), cancelled, digests)


@pytest.mark.parametrize(
    ("snapshot", "applied", "steps"),
    [
        (OPEN, None, ["create"]),
        (CANCELLED, None, []),
        (OPEN, holding(OPEN), []),
        (moved(OPEN, updated_at=T0 + timedelta(days=1)), holding(OPEN), []),
        (LATER, holding(OPEN), ["update"]),
        (CANCELLED, holding(OPEN), ["cancel"]),
        (VOIDED, holding(OPEN), ["update", "cancel"]),
        (CANCELLED, holding(OPEN, cancelled=True), []),
        (moved(CANCELLED, note="late"), holding(OPEN, cancelled=True), []),
        (FAILED, None, []),
        (given_back(FAILED, FIRST), None, []),
        (FAILED, holding(OPEN), []),
        (moved(LATER, not_yet="failed"), holding(OPEN), ["update"]),
        (given_back(FAILED, FIRST), holding(OPEN), ["credit 88"]),
        (FAILED, holding(OPEN, cancelled=True), []),
        (moved(CANCELLED, not_yet="failed"), holding(OPEN), ["cancel"]),
        (given_back(OPEN, FIRST), None, ["create", "credit 88"]),
        (given_back(OPEN, SECOND, FIRST), None, ["create", "credit 88", "credit 77"]),
        (given_back(OPEN, FIRST), holding(OPEN), ["credit 88"]),
        (given_back(OPEN, FIRST), holding(OPEN, FIRST), []),
        (given_back(OPEN, FIRST, SECOND), holding(OPEN, FIRST), ["credit 77"]),
        (given_back(OPEN, FIRST, SECOND), holding(OPEN, SECOND), ["credit 88"]),
        (given_back(OPEN, FIRST, FIRST), holding(OPEN), ["credit 88"]),
        (given_back(LATER, FIRST), holding(OPEN), ["update", "credit 88"]),
        (
            moved(OPEN, refunds=(FIRST,), payment_state=PaymentState.PARTIALLY_REFUNDED),
            holding(OPEN),
            ["update", "credit 88"],
        ),
        (given_back(CANCELLED, FIRST), None, []),
        (given_back(CANCELLED, FIRST), holding(OPEN), ["credit 88", "cancel"]),
        (given_back(VOIDED, SECOND, FIRST), holding(OPEN, FIRST), ["update", "credit 77", "cancel"]),
        (given_back(CANCELLED, FIRST), holding(OPEN, cancelled=True), ["credit 88"]),
        (given_back(VOIDED, FIRST, SECOND), holding(OPEN, FIRST, cancelled=True), ["credit 77"]),
        (
            given_back(OPEN, FIRST.model_copy(update={"created_at": None}), SECOND),
            holding(OPEN),
            ["credit 77", "credit 88"],
        ),
        (given_back(OPEN, FIRST.model_copy(update={"note": "broken"})), holding(OPEN, FIRST), []),
    ],
)
def test_given_a_snapshot_and_what_is_applied_when_planned_then_only_what_is_missing(
    snapshot: Order, applied: Applied | None, steps: list[str]
) -> None:
    planned = plan(snapshot, applied)
    assert [f"{step.kind} {step.refund.external_id}" if step.refund else step.kind for step in planned] == steps
    assert all((step.kind is StepKind.CREDIT) is (step.refund is not None) for step in planned)


def test_given_an_open_order_that_was_cancelled_there_when_planned_then_a_conflict_names_both() -> None:
    with pytest.raises(Conflict, match=r"1001 .* SO1"):
        plan(OPEN, holding(OPEN, cancelled=True))


@pytest.mark.parametrize(
    ("snapshot", "says"),
    [
        (OPEN, "Refund 88 of order 1001 is not in the shop any more"),
        (
            given_back(OPEN, refund("88", amount="5.00")),
            "Refund 88 of order 1001 comes to 5.00 EUR in the shop now",
        ),
        (given_back(CANCELLED, SECOND), "Refund 88 of order 1001 is not in the shop any more"),
    ],
    ids=["taken back", "changed", "another one"],
)
@pytest.mark.parametrize("cancelled", [False, True])
def test_given_a_credited_refund_that_the_shop_has_changed_when_planned_then_a_conflict_names_it(
    snapshot: Order, says: str, cancelled: bool
) -> None:
    if cancelled and not snapshot.cancelled:
        snapshot = moved(snapshot, cancelled_at=T0)
    with pytest.raises(Conflict, match=says):
        plan(snapshot, holding(OPEN, FIRST, cancelled=cancelled))


def test_given_only_a_refund_when_digested_then_the_content_is_the_same_and_the_snapshot_is_not() -> None:
    assert content_digest(given_back(OPEN, FIRST)) == content_digest(OPEN)
    assert given_back(OPEN, FIRST).digest() != OPEN.digest()


def test_given_an_order_that_is_none_yet_when_digested_then_the_content_is_the_same_and_the_snapshot_is_not() -> (
    None
):
    assert content_digest(FAILED) == content_digest(OPEN)
    assert FAILED.digest() != OPEN.digest()


def test_given_an_order_that_counts_when_digested_then_as_before_there_were_others() -> None:
    assert OPEN.digest() == "fadca6077b41978f24d1307433db22419bd5e4b0e2557bd1f9efa6ed249694d9"


def step(kind: StepKind, number: int, state: StepState = StepState.APPLIED, **values: object) -> Step:
    made = Step(
        step_id=number,
        kind=kind,
        state=state,
        claim=1,
        request=Request("POST", "/", f"k{number}", b""),
        digest=f"d{number}",
        snapshot_updated_at=T0 + timedelta(minutes=number),
        sends=1,
        doubts=0,
        settles_at=T0,
        settled=True,
        verify_at=None,
        verify_due=False,
        remote_id="SO1",
        remote_total=None,
    )
    return replace(made, **values)  # type: ignore[arg-type]


CREATE, UPDATE, CANCEL = (
    step(kind, number) for number, kind in enumerate((StepKind.CREATE, StepKind.UPDATE, StepKind.CANCEL), 1)
)


def credit(number: int, refund_id: str, state: StepState = StepState.APPLIED) -> Step:
    request = Request("POST", "/", f"acme/erp/web/order/1001/credit/{refund_id}", b"")
    return step(StepKind.CREDIT, number, state, request=request, remote_id=f"CN{number}")


@pytest.mark.parametrize(
    ("steps", "applied"),
    [
        ([], None),
        ([step(StepKind.CREATE, 1, StepState.REFUSED)], None),
        ([step(StepKind.CREATE, 1, StepState.INTENDED)], None),
        ([CREATE], Applied("SO1", "d1", cancelled=False)),
        ([CREATE, UPDATE], Applied("SO1", "d2", cancelled=False)),
        ([CREATE, step(StepKind.UPDATE, 2, StepState.IN_DOUBT)], Applied("SO1", "d1", cancelled=False)),
        ([CREATE, UPDATE, CANCEL], Applied("SO1", "d2", cancelled=True)),
        ([CREATE, credit(4, "88")], Applied("SO1", "d1", cancelled=False, credits={"88": "d4"})),
        ([CREATE, credit(4, "88", StepState.IN_DOUBT)], Applied("SO1", "d1", cancelled=False)),
        ([CREATE, credit(4, "88", StepState.REFUSED)], Applied("SO1", "d1", cancelled=False)),
        (
            [CREATE, CANCEL, credit(4, "88"), credit(5, "77")],
            Applied("SO1", "d1", cancelled=True, credits={"88": "d4", "77": "d5"}),
        ),
        ([credit(4, "88")], None),
    ],
)
def test_given_steps_when_folded_then_only_applied_ones_count(steps: list[Step], applied: Applied | None) -> None:
    assert fold(steps) == applied


def at(minute: int | None, body: str = "a", version: int = 1) -> Candidate:
    time = None if minute is None else T0 + timedelta(minutes=minute)
    return Candidate(version, version, "order", time, body)


def seen(minute: int | None, *, complete: bool = True, begun: Applied | None = None) -> Known:
    time: datetime | None = None if minute is None else T0 + timedelta(minutes=minute)
    return Known(time, "seen" if complete else None, complete, begun)


@pytest.mark.parametrize(
    ("candidates", "newest", "kind"),
    [
        ([at(1)], seen(None), Take),
        ([at(2, version=2), at(1)], seen(1), Take),
        ([at(1, version=2), at(3, version=1)], seen(None), Take),
        ([at(1)], seen(2), Keep),
        ([at(1)], seen(2, complete=False), Fetch),
        ([at(2)], seen(2, complete=False), Fetch),
        ([at(2)], seen(2, complete=False, begun=holding(OPEN)), Take),
        ([at(2), at(2, version=2), at(1, "b")], seen(2, complete=False, begun=holding(OPEN)), Take),
        ([at(2), at(2, "b")], seen(2, complete=False, begun=holding(OPEN)), Fetch),
        ([at(2), at(None)], seen(2, complete=False, begun=holding(OPEN)), Fetch),
        ([at(1)], seen(2, complete=False, begun=holding(OPEN)), Fetch),
        ([at(3)], seen(2, complete=False, begun=holding(OPEN)), Take),
        ([at(2)], Known(T0, DELETED, complete=True), Fetch),
        ([at(2, "a"), at(2, "b", version=2)], seen(1), Fetch),
        ([at(2, "a"), at(2, "a", version=2)], seen(1), Take),
        ([at(None), at(2)], seen(1), Fetch),
        ([], seen(1), Fetch),
    ],
)
def test_given_deliveries_when_chosen_then_an_older_one_never_wins(
    candidates: list[Candidate], newest: Known, kind: type
) -> None:
    assert isinstance(choose(candidates, newest), kind)


def test_given_the_newest_is_not_the_last_to_arrive_when_chosen_then_the_newest_is_taken() -> None:
    choice = choose([at(3, version=1), at(1, version=2)], seen(2))
    assert choice == Take(1, "order", T0 + timedelta(minutes=3))


def test_given_the_same_time_as_seen_when_chosen_then_only_the_seen_content_is_taken() -> None:
    assert choose([at(2)], seen(2)) == Take(1, "order", T0 + timedelta(minutes=2), only_if_digest="seen")


@pytest.mark.parametrize(
    ("body", "begun", "fits"),
    [
        (OPEN, holding(OPEN), True),
        (LATER, holding(OPEN), False),
        (CANCELLED, holding(OPEN), True),
        (given_back(OPEN, FIRST), holding(OPEN), True),
        (given_back(OPEN, FIRST, SECOND), holding(OPEN, FIRST), True),
        (OPEN, holding(OPEN, FIRST), False),
        (given_back(OPEN, refund("88", amount="5.00")), holding(OPEN, FIRST), False),
        (CANCELLED, holding(OPEN, cancelled=True), True),
        (OPEN, holding(OPEN, cancelled=True), False),
        (given_back(CANCELLED, FIRST), holding(OPEN, FIRST, cancelled=True), True),
    ],
)
def test_given_the_body_of_a_begun_snapshot_when_taken_then_only_one_that_shows_what_was_begun(
    body: Order, begun: Applied, fits: bool
) -> None:
    choice = choose([at(2)], seen(2, complete=False, begun=begun))
    assert isinstance(choice, Take)
    assert choice.fits(body) is fits


def test_given_a_newer_body_than_the_begun_one_when_chosen_then_it_is_taken_as_it_is() -> None:
    choice = choose([at(3), at(2)], seen(2, complete=False, begun=holding(LATER, FIRST, cancelled=True)))
    assert isinstance(choice, Take)
    assert choice.fits(OPEN)


@given(
    candidates=st.lists(
        st.builds(at, st.none() | st.integers(0, 4), st.sampled_from("ab"), st.integers(1, 9)), max_size=5
    ),
    minute=st.none() | st.integers(0, 4),
    complete=st.booleans(),
    begun=st.sampled_from([None, holding(OPEN), holding(LATER, FIRST, cancelled=True)]),
)
def test_given_any_deliveries_and_any_history_when_chosen_then_nothing_older_than_known_ever_counts(
    candidates: list[Candidate], minute: int | None, complete: bool, begun: Applied | None
) -> None:
    newest = seen(minute, complete=complete, begun=None if complete else begun)
    known_times = [one.updated_at for one in candidates if one.updated_at is not None]
    known_times += [newest.updated_at] if newest.updated_at else []
    choice = choose(candidates, newest)
    if isinstance(choice, Take):
        assert choice.updated_at == max(known_times)
        taken = [one for one in candidates if one.updated_at == choice.updated_at]
        assert choice.delivery_id in {one.delivery_id for one in taken}
        assert len({one.body_hash for one in taken}) == 1
        if choice.updated_at == newest.updated_at:
            assert (choice.only_if_digest, choice.only_if_shows) == (newest.digest, newest.begun)
            assert choice.only_if_digest or choice.only_if_shows
    elif isinstance(choice, Fetch):
        assert choice.not_before == max(known_times, default=None)
    else:
        assert newest.complete
        assert newest.updated_at is not None
        assert all(one.updated_at and one.updated_at < newest.updated_at for one in candidates)


def test_given_a_fetch_when_chosen_then_nothing_older_than_what_is_known_is_accepted() -> None:
    choice = choose([at(None), at(3, version=2)], seen(2))
    assert isinstance(choice, Fetch)
    assert choice.not_before == T0 + timedelta(minutes=3)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], Known(T0, "seen", complete=True)),
        (
            [CREATE],
            Known(CREATE.snapshot_updated_at, None, complete=False, begun=Applied("SO1", "d1", cancelled=False)),
        ),
        (
            [CREATE, CANCEL, credit(4, "88")],
            Known(
                T0 + timedelta(minutes=4),
                None,
                complete=False,
                begun=Applied("SO1", "d1", cancelled=True, credits={"88": "d4"}),
            ),
        ),
        ([step(StepKind.CREATE, 1, StepState.REFUSED)], Known(T0, "seen", complete=True)),
        ([step(StepKind.CREATE, 0)], Known(T0, "seen", complete=True)),
    ],
)
def test_given_a_step_after_the_last_finish_when_folded_then_its_snapshot_is_known_but_incomplete(
    steps: list[Step], expected: Known
) -> None:
    assert known(T0, "seen", steps) == expected
