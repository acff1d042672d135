"""Signals that end a run early become one exception, so that every context closes in order.

`ray.init` replaces the handler of SIGTERM, so whoever calls it calls `catch_signals` again.
"""

import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import FrameType
from typing import NoReturn


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGINT arrived; `exit_code` is 128 plus its number, as shells count."""

    def __init__(self, signum: int) -> None:
        """Remember which signal."""
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


def catch_signals() -> None:
    """Raise Interrupted in the main thread at SIGTERM or SIGINT; elsewhere do nothing.

    A second SIGTERM is ignored (Ray sends one to each process of a job, and clean-up takes a
    while); a second SIGINT interrupts the clean-up.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)


def _interrupt(signum: int, _frame: FrameType | None) -> NoReturn:
    if signum == signal.SIGTERM:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Interrupted(signum)


def together(works: Sequence[Callable[[], object]], stop: Callable[[], object]) -> None:
    """Do several works at once, each in a thread; one alone is done here.

    The first error is raised, and so is a signal. Then `stop` is called, which has to make the
    other works fail soon: their ends are waited for.
    """
    if len(works) == 1:
        works[0]()
        return
    with ThreadPoolExecutor(len(works), thread_name_prefix="work") as threads:
        try:
            for end in as_completed([threads.submit(work) for work in works]):
                end.result()
        except BaseException:
            stop()
            raise
