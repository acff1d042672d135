"""Signals that end a run early become one exception, so that every context closes in order.

`ray.init` replaces the handler of SIGTERM, so whoever calls it calls `catch_signals` again.
"""

import signal
import threading
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
