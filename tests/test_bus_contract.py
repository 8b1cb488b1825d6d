"""What every bus promises, whatever its register is made of (docs/architecture.md)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from grounds import NOW, Ground, ground, stamped, token
from orchestration import state
from orchestration.bus import Bus, Claimed, Fenced, Landed, Lost, View
from orchestration.clock import iso
from orchestration.errors import ExitCode, Refused
from orchestration.journal import Claim
from orchestration.state import Actor, Failure, State, Status, Token
from test_state import states

every_bus = pytest.mark.parametrize("here", ["file", "local", "solo", "remote"], indirect=True)
shared_bus = pytest.mark.parametrize("here", ["file", "local", "remote"], indirect=True)
"""Solo's state is a counter of its own: what another hand writes is none of its business."""

fuzzed = settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
branches = st.sampled_from([None, "main"])


@pytest.fixture
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    """Give a project of its own, and its bus."""
    with ground(request.param, tmp_path) as made:
        yield made


def claim_on(view: View, nonce: str = "1" * 32) -> Claim:
    return Claim(view.state.expected_actor, view.state.iteration, token(view, nonce), "main", view.tip, iso(NOW))


def take(bus: Bus, view: View, nonce: str = "1" * 32) -> Claimed | Lost:
    """Claim the turn that a look has shown."""
    claim = claim_on(view, nonce)
    return bus.claim(claim, bus.offer(claim, view.state)())


def somebody_elses(view: View) -> bytes:
    """Return the state after somebody else's turn."""
    return state.encode(state.succeeded(view.state, Token(view.state.epoch + 1, "other", "2" * 32), "", NOW))


@every_bus
def test_a_look_and_a_stamp_change_nothing(here: Ground) -> None:
    bus, before = here.bus(), here.outside()

    view = bus.look()
    hand_off = stamped(bus, view)

    assert here.outside() == before
    assert bus.look() == here.bus().look() == view
    assert bus.state_at(view.tip) == view.state
    assert (view.state.expected_actor, view.state.iteration, view.state.epoch) == (Actor.GALPH, 1, 0)
    assert hand_off.parent == view.tip


@pytest.mark.parametrize("here", ["file", "local", "solo"], indirect=True)
def test_what_is_not_shared_asks_nobody_and_stays_where_it_is(here: Ground) -> None:
    bus = here.bus()
    view = bus.look()
    take(bus, view)
    before = here.outside()

    bus.retreat()

    assert here.outside() == before
    assert (bus.offline(), bus.holds(claim_on(view)), bus.settings()()) == (bus, None, None)


@pytest.mark.parametrize("here", ["file", "local"], indirect=True)
def test_a_turn_that_somebody_else_is_said_to_run_is_refused_where_nothing_is_shared(here: Ground) -> None:
    bus = here.bus()
    now = bus.look().state
    with pytest.raises(Refused, match=r"galph runs since .* this clone did not start it") as caught:
        bus.elsewhere(state.running(now, Token(1, "other", "2" * 32), "", NOW))
    assert caught.value.code == "state-running"


@every_bus
def test_a_claim_stands_only_where_the_register_is_as_it_was_read(here: Ground) -> None:
    bus = here.bus()
    view = bus.look()
    before, claim = here.outside(), claim_on(view)
    offer = bus.offer(claim, view.state)()
    assert here.outside() == before
    for each in (bus, here.bus()):
        assert each.claim(claim, offer) == Claimed(offer)
        assert (here.outside() == before) is (offer == view.tip)  # a claim that is a value of its own is there to see

    here.put(somebody_elses(view))

    assert isinstance(take(bus, view), Lost)


@shared_bus
def test_a_claim_is_lost_where_the_state_is_gone_or_damaged(here: Ground) -> None:
    bus = here.bus()
    view = bus.look()
    for data in (b"{", None):
        here.put(data)
        assert isinstance(take(bus, view), Lost)


@every_bus
def test_a_hand_off_settled_again_also_after_a_crash_is_one(here: Ground) -> None:
    bus = here.bus()
    hand_off = stamped(bus, bus.look())

    first = bus.settle(hand_off)
    landed, after = here.outside(), bus.look()

    assert isinstance(first, Landed)
    for again in (bus, here.bus()):
        assert isinstance(again.settle(hand_off), Landed)
        assert (here.outside(), again.look()) == (landed, after)
    assert after.state.status in {Status.IDLE, Status.WAITING_RALPH}


@shared_bus
def test_what_has_landed_is_what_everybody_reads(here: Ground) -> None:
    bus = here.bus()
    view = bus.look()
    hand_off = stamped(bus, view)

    bus.settle(hand_off)

    after = here.bus().look(epoch=1)
    assert (after.tip, after.state) == (hand_off.commit, bus.state_at(hand_off.commit))
    assert (after.state.expected_actor, after.state.status) == (Actor.RALPH, Status.WAITING_RALPH)
    assert (after.state.epoch, after.state.holder, after.state.nonce) == (1, "me", "1" * 32)
    assert isinstance(take(bus, view), Lost)
    assert isinstance(take(bus, after), Claimed)


@shared_bus
@pytest.mark.parametrize(
    "change",
    [somebody_elses, lambda _: b"{", lambda _: None],
    ids=["taken over", "damaged", "deleted"],
)
def test_a_hand_off_is_fenced_where_another_hand_has_changed_the_state(
    here: Ground, change: Callable[[View], bytes | None]
) -> None:
    bus = here.bus()
    view = bus.look()
    hand_off = stamped(bus, view)
    here.put(change(view))
    theirs = here.outside()

    for each in (bus, here.bus()):
        answer = each.settle(hand_off)
        assert isinstance(answer, Fenced)
        assert here.fence in answer.why
        assert here.outside() == theirs


def changed(**values: object) -> Callable[[dict[str, object]], bytes]:
    return lambda raw: json.dumps({**raw, **values}).encode() + b"\n"


DAMAGE: dict[str, Callable[[dict[str, object]], bytes | None]] = {
    "state-missing": lambda _: None,
    "state-truncated": lambda raw: json.dumps(raw).encode()[:-3],
    "state-conflicted": lambda raw: b"<<<<<<< HEAD\n" + json.dumps(raw).encode() + b"\n",
    "state-not-json": lambda _: b"hello\n",
    "state-not-object": lambda _: b"[]\n",
    "state-encoding": lambda _: b"\xe9\n",
    "state-bom": lambda raw: b"\xef\xbb\xbf" + json.dumps(raw).encode() + b"\n",
    "state-nul": lambda _: bytes(100),
    "state-too-large": lambda raw: json.dumps(raw).encode() + b" " * state.MAX_BYTES + b"\n",
    "state-invalid": changed(iteration=0),
    "state-future": changed(schema=state.SCHEMA + 1),
    "state-unknown-actor": changed(expected_actor="bob"),
    "state-unknown-status": changed(status="asleep"),
}

OWN_REMEDY = {"state-bom": "without a byte order mark", "state-future": "upgrade"}
"""What helps is the same wherever the state lies."""

REMEDY = {
    "file": {"state-missing": "`orchestrator init --no-git`", "": "mend sync/state.json by hand, or restore a copy"},
    "local": {
        "state-missing": "`orchestrator init`",
        "state-conflicted": "resolve the conflict in sync/state.json and commit it",
        "": "`git log --oneline -- sync/state.json`",
    },
}
REMEDY["remote"] = {
    "state-backwards": "`orchestrator init --adopt`",
    "": "`git pull --ff-only origin main && git checkout {valid} -- sync/state.json && "
    "git commit -m 'the state, restored' -- sync/state.json && git push origin main`",
}


@shared_bus
@pytest.mark.parametrize("code", DAMAGE)
def test_damage_is_refused_under_its_own_code_with_a_remedy_that_fits(
    request: pytest.FixtureRequest, here: Ground, code: str
) -> None:
    bus = here.bus()
    view = bus.look()
    here.put(DAMAGE[code](json.loads(state.encode(view.state))))
    before = here.outside()

    with pytest.raises(Refused) as caught:
        bus.look()

    refused, kind = caught.value, request.node.callspec.params["here"]
    assert (refused.code, refused.exit_code) == (code, ExitCode.REFUSED)
    assert refused.message.startswith(f"{here.register}: ")
    own = OWN_REMEDY.get(code) if kind != "remote" or code == "state-future" else None
    wanted = own or REMEDY[kind].get(code, REMEDY[kind][""])
    assert wanted.replace("{valid}", view.tip) in refused.remedy
    assert "{path}" not in refused.remedy
    assert kind != "file" or "git " not in refused.remedy
    assert here.outside() == before
    here.put(state.encode(view.state))
    assert bus.look().state == view.state


@shared_bus
def test_a_state_before_what_was_seen_is_refused(request: pytest.FixtureRequest, here: Ground) -> None:
    bus = here.bus()
    bus.settle(stamped(bus, bus.look()))
    assert bus.look(epoch=1, iteration=1).state.epoch == 1
    for seen in ({"epoch": 2}, {"iteration": 2}):
        with pytest.raises(Refused, match="went backwards") as caught:
            bus.look(**seen)
        assert caught.value.code == "state-backwards"
        usual = REMEDY[request.node.callspec.params["here"]][""]
        assert any(text in caught.value.remedy for text in (usual, "`orchestrator init --adopt`"))


@shared_bus
def test_the_state_of_a_damaged_value_is_refused_by_name(here: Ground) -> None:
    bus = here.bus()
    here.put(b"{\n")
    with pytest.raises(Refused, match=here.register) as caught:
        bus.state_at(here.value())
    assert caught.value.code == "state-truncated"


@shared_bus
@given(standing=states, branch=branches, fails=st.booleans())
@fuzzed
def test_any_state_is_handed_off_and_read_again(here: Ground, standing: State, branch: str | None, fails: bool) -> None:
    standing = replace(standing, branch=branch)
    here.begin(standing)
    bus = here.bus()
    view = bus.look(epoch=standing.epoch, iteration=standing.iteration)
    assert replace(view.state, branch=None) == replace(standing, branch=None)
    claimed = take(bus, view)
    assert isinstance(claimed, Claimed)
    after = state.succeeded(view.state, token(view), "c" * 40, NOW)
    if fails:
        after = state.failed(view.state, token(view), "c" * 40, Failure(reason="no"), NOW)

    hand_off = bus.stamp(claimed.base, view.state, after)
    assert isinstance(bus.settle(hand_off), Landed)

    landed = here.bus().look(epoch=view.state.epoch + 1)
    ours = dict.fromkeys(("branch", "galph_commit", "ralph_commit", "claim_base"))
    assert replace(landed.state, **ours) == replace(after, **ours)
    assert landed.tip == hand_off.commit
    assert isinstance(take(bus, view, "3" * 32), Lost)


@shared_bus
@given(
    data=st.binary(max_size=60) | states.map(state.encode).flatmap(lambda data: st.sampled_from([data[:9], data * 2]))
)
@fuzzed
def test_whatever_lies_in_the_register_is_read_or_refused_and_left_alone(here: Ground, data: bytes) -> None:
    here.put(data)
    before = here.outside()
    with pytest.raises(Refused) as caught:
        here.bus().look()
    assert caught.value.code.startswith("state-")
    assert here.register in caught.value.message
    assert here.outside() == before
