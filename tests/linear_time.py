"""Texts that repeat themselves, and a bound on CPU time that grows no faster than their length."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hypothesis import strategies as st


def repeated(pieces: Sequence[str], most: int) -> st.SearchStrategy[str]:
    """Up to `most` characters: a few pieces in a row, over and over, between two others."""
    few = st.lists(st.sampled_from(pieces), min_size=1, max_size=4).map("".join)
    sizes = st.integers(0, most.bit_length()).map(lambda power: min(1 << power, most))
    return st.builds(
        lambda first, core, size, last: first + (core * (size // len(core) + 1))[:size] + last,
        *(few, few, sizes, few),
    )


@contextmanager
def linear_time(length: int, *, micros_a_char: float, seconds: float = 1.0) -> Iterator[None]:
    """Fail if the block takes more CPU than `seconds` and so many microseconds a character.

    A machine that is busy with other work makes no difference: only this thread is counted.
    """
    began = time.thread_time()
    yield
    spent, most = time.thread_time() - began, seconds + micros_a_char * 1e-6 * length
    assert spent < most, f"{spent:.1f} s for {length:,} characters, more than {most:.1f} s"
