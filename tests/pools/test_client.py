"""Routing, admission, coalescing and repetition, against fake actors."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.engines.engine import Request
from sphere_ray.errors import EngineError, RequestError
from sphere_ray.pools.actor import Reply
from sphere_ray.pools.client import Admission, PoolClient
from tests.pools.fakes import FakeActor, answer, answer_all, request


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
    assert actor.restarts == 2


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
