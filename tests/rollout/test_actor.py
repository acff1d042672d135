"""What an engine actor is made of: the gate, the restart budget."""

import asyncio

from sphere_ray.rollout.actor import Gate, RestartLedger


async def test_a_suspect_request_has_the_engine_to_itself() -> None:
    gate, inside, seen = Gate(), set[str](), list[set[str]]()

    async def run(name: str, *, alone: bool) -> None:
        async with gate.enter(alone=alone):
            inside.add(name)
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(set(inside))
            inside.remove(name)

    await asyncio.gather(
        run("a", alone=False), run("b", alone=False), run("s", alone=True), run("c", alone=False)
    )
    assert {"a", "b"} in seen
    assert all(names == {"s"} for names in seen if "s" in names)


async def test_two_suspects_run_one_after_the_other() -> None:
    gate, inside, most = Gate(), 0, 0

    async def run() -> None:
        nonlocal inside, most
        async with gate.enter(alone=True):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.wait_for(asyncio.gather(*(run() for _ in range(5))), timeout=5)
    assert most == 1


def test_restarts_have_a_budget_per_hour_and_replica() -> None:
    now = 0.0
    ledger = RestartLedger(clock=lambda: now)
    assert [ledger.allows("a", 2) for _ in range(4)] == [True, True, True, False]
    assert ledger.allows("b", 2)
    now = 3601.0
    assert ledger.allows("a", 2)
