"""Waits for several coroutines, and leaves none of them running when one fails."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_or_cancel(coroutines: Iterable[Coroutine[Any, Any, T]]) -> tuple[T, ...]:
    """Return the results in the order given; the first error stops the rest and propagates.

    (A TaskGroup would wrap it in an ExceptionGroup, and `except RowError` would miss it.)
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return tuple(await asyncio.gather(*tasks))
    except BaseException:
        # The others would go on decoding for a problem that has already failed.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
