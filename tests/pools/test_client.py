"""Routing, admission, coalescing and repetition, against fake actors."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayTaskError

from sphere_ray.engines.engine import Request
from sphere_ray.errors import EngineError, RequestError
from sphere_ray.pools import client as client_module
from sphere_ray.pools.actor import Reply
from sphere_ray.pools.client import Admission, PoolClient, Whereabouts
from tests.pools.fakes import FakeActor, Method, answer, answer_all, request


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RETRY_S", 0.01)


async def test_requests_that_are_ready_together_travel_in_one_call() -> None:
    actor = FakeActor(answer_all)
    client = PoolClient([actor], 100, "m")
    await asyncio.gather(*(client.generate(request(f"p{i}")) for i in range(10)))
    assert [len(problems) for problems, _ in actor.calls] == [10]


async def test_each_request_gets_its_own_answer_in_any_order() -> None:
    def reversed_replies(requests: Sequence[Request], alone: bool) -> list[Reply]:
        replies = [
            Reply(index=i, response=answer(r.problem_id))  # type: ignore[union-attr]
            for i, r in enumerate(requests)
        ]
        return replies[::-1]

    client = PoolClient([FakeActor(reversed_replies)], 100, "m")
    names = [f"p{i}" for i in range(7)]
    answers = await asyncio.gather(*(client.generate(request(name)) for name in names))
    assert [candidates[0].text for candidates in answers] == names


async def test_a_problem_stays_on_one_replica() -> None:
    actors = [FakeActor(answer_all) for _ in range(3)]
    client = PoolClient(actors, 100, "m")
    for _ in range(4):
        await asyncio.gather(*(client.generate(request(f"p{i}")) for i in range(12)))
    homes = [{name for names, _ in actor.calls for name in names} for actor in actors]
    assert sum(len(home) for home in homes) == 12
    assert all(homes)


async def test_what_a_death_lost_is_asked_again_and_what_was_answered_is_not() -> None:
    asked: list[list[str]] = []

    def dies_once(requests: Sequence[Request], alone: bool) -> list[Reply] | None:
        asked.append([r.problem_id for r in requests])  # type: ignore[union-attr]
        return None if len(asked) == 1 else answer_all(requests, alone)

    actor = FakeActor(dies_once)
    client = PoolClient([actor], 100, "m")
    await asyncio.gather(client.generate(request("a")), client.generate(request("b")))
    assert [sorted(names) for names in asked] == [["a", "b"], ["a", "b"]]
    assert actor.restarts == 1


async def test_a_poisonous_request_runs_alone_and_then_fails_by_itself() -> None:
    def dies_of_poison(requests: Sequence[Request], alone: bool) -> list[Reply] | None:
        names = [r.problem_id for r in requests]  # type: ignore[union-attr]
        return None if "poison" in names else answer_all(requests, alone)

    actor = FakeActor(dies_of_poison)
    client = PoolClient([actor], 100, "m")
    results = await asyncio.gather(
        client.generate(request("poison")),
        *(client.generate(request(f"p{i}")) for i in range(5)),
        return_exceptions=True,
    )
    assert isinstance(results[0], RequestError)
    assert not any(isinstance(result, BaseException) for result in results[1:])
    assert (["poison"], True) in actor.calls


class Left:
    """The node of each replica that is lost has left; the ledger knows nothing else."""

    def __init__(self) -> None:
        self.node_of = Method(self._node_of)
        self.has_left = Method(self._has_left)

    async def _node_of(self, name: str) -> str:
        return f"node of {name}"

    async def _has_left(self, node: str) -> bool:
        return True


def cluster(actors: Sequence[Any], absent: Sequence[int] = ()) -> PoolClient:
    names = [f"run/pool/{index}" for index, _ in enumerate(actors)]
    where = Whereabouts(ledger=Left(), names=names)
    return PoolClient(actors, 100, "m", whereabouts=where, absent=absent)


async def test_a_lost_node_costs_a_request_nothing_however_often() -> None:
    """The three engines of a node die one after the other, each with the same requests."""
    lost = [FakeActor(lambda requests, alone: None) for _ in range(4)]
    for actor in lost:
        actor.away()
    client = cluster([*lost, FakeActor(answer_all)])
    found = await asyncio.gather(*(client.generate(request(f"p{i}")) for i in range(20)))
    assert len(found) == 20
    assert not any(alone for actor in lost for _, alone in actor.calls)


async def test_the_others_serve_while_one_is_away_and_it_is_used_when_it_is_back() -> None:
    def dies_once(requests: Sequence[Request], alone: bool) -> list[Reply] | None:
        return None if len(first.calls) == 1 else answer_all(requests, alone)

    first, second = FakeActor(dies_once), FakeActor(answer_all)
    client = cluster([first, second])
    names = [f"p{i}" for i in range(12)]

    async def round_of_requests() -> None:
        await asyncio.gather(*(client.generate(request(name)) for name in names))

    first.away()
    await round_of_requests()
    assert len(first.calls) == 1
    assert {name for asked, _ in second.calls for name in asked} == set(names)
    first.back()
    while client._fates:
        await asyncio.sleep(0.01)
    await round_of_requests()
    assert len(first.calls) == 2


async def test_a_replica_that_has_no_node_yet_is_asked_when_it_serves() -> None:
    early, late = FakeActor(answer_all), FakeActor(answer_all)
    late.away()
    client = cluster([early, late], absent=[1])
    await asyncio.gather(*(client.generate(request(f"p{i}")) for i in range(12)))
    assert late.calls == []
    late.back()
    while client._fates:
        await asyncio.sleep(0.01)
    await asyncio.gather(*(client.generate(request(f"p{i}")) for i in range(12)))
    assert late.calls


async def test_a_pool_without_any_replica_ends_the_run_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "RESTART_TIMEOUT_S", 0.05)
    actor = FakeActor(lambda requests, alone: None)
    actor.away()
    results = await asyncio.gather(
        *(cluster([actor]).generate(request(f"p{i}")) for i in range(3)), return_exceptions=True
    )
    assert [type(result) for result in results] == [EngineError] * 3


async def test_a_replica_that_cannot_start_again_ends_the_run() -> None:
    actor = FakeActor(lambda requests, alone: None)
    actor.ready = Method(fails)
    with pytest.raises(EngineError, match="died more than"):
        await cluster([actor]).generate(request())


async def fails() -> None:
    raise RayTaskError("ready", "Traceback", EngineError("it died more than 4 times"))


async def test_a_row_error_reaches_its_own_request_only() -> None:
    def refuses_a(requests: Sequence[Request], alone: bool) -> list[Reply]:
        return [
            Reply(index=i, error=RequestError("too long"))
            if r.problem_id == "a"  # type: ignore[union-attr]
            else Reply(index=i, response=answer())
            for i, r in enumerate(requests)
        ]

    client = PoolClient([FakeActor(refuses_a)], 100, "m")
    refused, fine = await asyncio.gather(
        client.generate(request("a")), client.generate(request("b")), return_exceptions=True
    )
    assert isinstance(refused, RequestError)
    assert fine == answer()


async def test_a_silent_engine_is_an_error_and_never_an_answer() -> None:
    client = PoolClient([FakeActor(lambda requests, alone: [])], 100, "m")
    with pytest.raises(EngineError):
        await client.generate(request())


async def test_the_oldest_problem_is_let_in_first() -> None:
    admission = Admission(1, 2)
    await admission.enter(0, 2, priority=0)
    order: list[int] = []

    async def wait(priority: int) -> None:
        await admission.enter(0, 2, priority)
        order.append(priority)
        admission.leave(0, 2)

    waiting = [asyncio.create_task(wait(priority)) for priority in (5, 3, 9, 1)]
    await asyncio.sleep(0)
    admission.leave(0, 2)
    await asyncio.gather(*waiting)
    assert order == [1, 3, 5, 9]


async def test_a_cancelled_request_holds_up_nobody_who_waits_behind_it() -> None:
    admission = Admission(1, 4)
    await admission.enter(0, 3, 0)
    wide = asyncio.create_task(admission.enter(0, 4, priority=0))
    narrow = asyncio.create_task(admission.enter(0, 1, priority=1))
    await asyncio.wait([wide, narrow], timeout=0.05)
    assert not narrow.done()  # the oldest is let in first
    wide.cancel()
    assert await asyncio.wait_for(narrow, timeout=1) == 0


async def test_a_cancelled_request_gives_its_place_back() -> None:
    admission = Admission(1, 1)
    await admission.enter(0, 1, 0)
    waiting = asyncio.create_task(admission.enter(0, 1, 0))
    await asyncio.sleep(0)
    admission.leave(0, 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.wait_for(admission.enter(0, 1, 0), timeout=1) == 0


async def test_a_cancelled_request_keeps_its_place_until_the_engine_is_done_with_it() -> None:
    release = asyncio.Event()

    class SlowActor(FakeActor):
        async def _serve(self, requests: Sequence[Request], *, alone: bool) -> AsyncIterator[Any]:
            await release.wait()
            async for reply in super()._serve(requests, alone=alone):
                yield reply

    actor = SlowActor(answer_all)
    client = PoolClient([actor], 1, "m")
    first = asyncio.create_task(client.generate(request("a")))
    while not client._replicas[0]._calls:
        await asyncio.sleep(0)
    first.cancel()
    second = asyncio.create_task(client.generate(request("b")))
    await asyncio.wait([first, second], timeout=0.05)
    assert first.cancelled()
    assert not second.done()
    assert actor.calls == []
    release.set()
    assert await asyncio.wait_for(second, timeout=1)
    assert [names for names, _ in actor.calls] == [["a"], ["b"]]


async def test_what_is_cancelled_before_it_was_sent_never_is() -> None:
    actor = FakeActor(answer_all)
    client = PoolClient([actor], 1, "m")
    first = asyncio.create_task(client.generate(request("a")))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait_for(client.generate(request("b")), timeout=1)
    assert [names for names, _ in actor.calls] == [["b"]]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    replicas=st.integers(1, 3),
    limit=st.integers(1, 12),
)
def test_no_replica_holds_more_than_its_limit_unless_one_request_is_larger(
    sizes: list[int], replicas: int, limit: int
) -> None:
    loads = [0] * replicas

    async def one(admission: Admission, index: int, size: int) -> None:
        place = await admission.enter(index % replicas, size, index)
        loads[place] += size
        assert loads[place] <= max(limit, size)
        await asyncio.sleep(0)
        loads[place] -= size
        admission.leave(place, size)

    async def everything() -> None:
        admission = Admission(replicas, limit)
        await asyncio.gather(*(one(admission, i, size) for i, size in enumerate(sizes)))

    asyncio.run(everything())
    assert loads == [0] * replicas


@given(events=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30))
def test_requests_go_only_to_replicas_that_serve_and_all_of_them_do_in_the_end(
    events: list[tuple[int, bool]],
) -> None:
    """Replicas come and go at random between the requests, and are all back at the end."""
    serving = set(range(4))

    async def one(admission: Admission, index: int) -> None:
        place = await admission.enter(index % 4, 1, index)
        await asyncio.sleep(0)
        admission.leave(place, 1)
        places.append(place)

    async def everything() -> None:
        admission = Admission(4, 2)
        asked = []
        for index, (replica, comes) in enumerate(events):
            (serving.add if comes else serving.discard)(replica)
            (admission.add if comes else admission.remove)(replica)
            assert admission.serving == len(serving)
            asked.append(asyncio.create_task(one(admission, index)))
            await asyncio.sleep(0)
            before = admission._with_room(replica, 1)
            assert before is None or before in serving
        for replica in range(4):
            admission.add(replica)
        await asyncio.wait_for(asyncio.gather(*asked), timeout=5)

    places: list[int] = []
    asyncio.run(everything())
    assert len(places) == len(events)
