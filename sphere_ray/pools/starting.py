"""Waiting for engines that start: for their models, and for nodes with room for them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from sphere_ray.errors import EngineError
from sphere_ray.planning.placement import Placed
from sphere_ray.pools.errors import cause_of

ROOM_S = 120.0
"""How long a pool waits for room for all its engines before it begins with some."""
SAY_S = 60.0
"""How often it is said what engines wait for."""
GIVE_WAY_S = 10.0
"""How long engines wait for room before other pools give back what they hold beyond their least."""
NOTICE_S = 30.0
"""How long Ray may take to notice that a node is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A replica of a pool: its actor, its name in the ledger, its pool, and its planned place."""

    actor: Any
    name: str
    pool: str
    home: Placed | None = None


def await_engines(
    calls: dict[Any, Member],
    ledger: Any,
    unplaced: Callable[[], set[str]],
    give_way: Callable[[], bool],
    say: Callable[[str], object],
) -> None:
    """Wait until the engines serve whose `ready` was called; `calls` is empty then.

    Where nodes have no room for all, pools begin with at least one engine each, and the others
    join when there is room. `unplaced` names those without a process, and `give_way` makes room.

    Raises:
        EngineError: an engine dies while it starts, though its node is there.
        UserError: a model cannot be served.
    """
    pools, served = {member.pool for member in calls.values()}, set[str]()
    began = said = time.monotonic()
    may_give_way = True
    while calls:
        done, _ = ray.wait(list(calls), timeout=1.0)
        for call in done:
            member = calls.pop(call)
            if _serves(call, member, ledger):
                served.add(member.pool)
            else:
                calls[member.actor.ready.remote()] = member
        now = time.monotonic()
        if done or now < began + GIVE_WAY_S or not (waiting := unplaced()):
            continue
        if may_give_way and give_way():
            may_give_way = False
            continue
        if now > began + ROOM_S and served == pools and len(waiting) == len(calls):
            say(f"{_counted(calls, waiting)} not placed; the others begin, and these join later")
            calls.clear()
        elif now > said + SAY_S:
            said = now
            say(f"engines start: {_counted(calls, waiting)} wait for a node with free GPUs")


def _counted(calls: dict[Any, Member], waiting: set[str]) -> str:
    pools = [member.pool for member in calls.values() if member.name in waiting]
    return ", ".join(f"{pools.count(pool)} x engine of {pool}" for pool in dict.fromkeys(pools))


def _serves(call: Any, member: Member, ledger: Any) -> bool:
    """Whether an engine has started; False if its node left, so that it starts elsewhere."""
    try:
        got([call])
    except EngineError as error:
        if not isinstance(error.__cause__, RayActorError) or not _was_lost(member, ledger):
            raise
        return False
    return True


def _was_lost(member: Member, ledger: Any) -> bool:
    node = ray.get(ledger.node_of.remote(member.name))
    deadline = time.monotonic() + NOTICE_S
    while node is not None and time.monotonic() < deadline:
        if ray.get(ledger.has_left.remote(node)):
            return True
        time.sleep(1.0)
    return False


def got(calls: Sequence[Any]) -> list[Any]:
    """Return the answers of engine actors.

    Raises:
        EngineError: an engine died.
        SphereError: as the engine raised it.
    """
    try:
        found: list[Any] = ray.get(list(calls))
        return found
    except RayTaskError as error:
        raise cause_of(error) from error
    except RayActorError as error:
        raise EngineError(f"an engine died while it started: {error}") from error
