"""Stages for the tests of the graphs; workers of Ray import them, so they are not in the test."""

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from sphere_ray.errors import EngineError, RowError
from sphere_ray.records import Problem
from sphere_ray.rollout.stages import RowStage
from sphere_ray.schema import from_table, to_table


@dataclass(frozen=True)
class Given:
    """What the odd stages read of an assignment."""

    settings: Any
    progress: Any
    marker: str
    gather: int
    start: int = 0


class Dying(RowStage):
    """Passes problems on; its process ends once, in the middle of its work."""

    def __init__(self, assignment: Any, *, last: bool = True) -> None:
        super().__init__(assignment, last=last)
        self.marker = Path(assignment.marker)

    def read(self, table: pa.Table) -> list[Problem]:
        return from_table(table, Problem)

    async def work(self, row: Problem) -> Problem:
        if row.level == 9 and not self.marker.exists():
            self.marker.touch()
            os._exit(1)
        if row.level == 8:
            raise EngineError("the engines are gone")
        return row

    def failed(self, row: Problem, error: RowError) -> Problem:
        return row

    def write(self, rows: list[Problem]) -> pa.Table:
        return to_table(rows, Problem)


class Gathering(RowStage):
    """Lets no row go before so many as the assignment says have come; a row that waited in vain
    has level 0."""

    def __init__(self, assignment: Any, *, last: bool = True) -> None:
        super().__init__(assignment, last=last)
        self.missing = assignment.gather
        self.all_there = asyncio.Event()

    def read(self, table: pa.Table) -> list[Problem]:
        return from_table(table, Problem)

    async def work(self, row: Problem) -> Problem:
        self.missing -= 1
        if self.missing <= 0:
            self.all_there.set()
        await self.all_there.wait()
        return row

    def failed(self, row: Problem, error: RowError) -> Problem:
        return replace(row, level=0)

    def write(self, rows: list[Problem]) -> pa.Table:
        return to_table(rows, Problem)


class Nothing:
    """The port `Progress`."""

    def add(self, **counts: int) -> None:
        pass
