r"""Recursive descent over written arithmetic; what an atom and a power are, a subclass knows.

Bounded in depth, and in size by the subclass, so that no text can make it slow.
"""

import re
from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Generic, TypeVar

N = TypeVar("N", Fraction, complex)

_MAX_DEPTH = 30
_TOKEN = re.compile(r"\s*(?:\\(frac|cdot|times|div)(?![a-zA-Z])|([-+*/^(){}\[\]]))\s*")
_TIMES = ("*", "cdot", "times")
_OVER = ("/", "div")


class UnreadableError(Exception):
    """The text is no expression of the kind that is read, or exceeds the bounds."""


class Evaluator(ABC, Generic[N]):
    """sum = term {+- term}; term = signed {*/ signed}; signed = [+-] atom [^ signed]."""

    def __init__(self, text: str) -> None:
        """Read nothing yet."""
        self._text = text
        self._at = 0
        self._depth = 0

    def evaluate(self) -> N:
        """Return the value of the whole text.

        Raises:
            UnreadableError: it is not of the kind that is read.
            ArithmeticError: it divides by zero or overflows.
        """
        value = self._sum()
        if self._at != len(self._text):
            raise UnreadableError
        return value

    @abstractmethod
    def _atom(self) -> N:
        """Read a number, or whatever else stands without an operator; `_group` and `_frac` help."""

    @abstractmethod
    def _raise(self, base: N, exponent: N) -> N: ...

    @abstractmethod
    def _bounded(self, value: N) -> N:
        """Return `value`, or raise UnreadableError when it is too large to go on with."""

    def _juxtaposed(self, *, after_division: bool) -> bool:  # noqa: ARG002
        """Whether a factor follows without a sign: never, unless a subclass reads such products."""
        return False

    def _peek(self) -> str:
        match = _TOKEN.match(self._text, self._at)
        return (match[1] or match[2]) if match else ""

    def _accept(self, *wanted: str) -> str:
        match = _TOKEN.match(self._text, self._at)
        token = (match[1] or match[2]) if match else ""
        if match and token in wanted:
            self._at = match.end()
            return token
        return ""

    def _expect(self, wanted: str) -> None:
        if not self._accept(wanted):
            raise UnreadableError

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UnreadableError

    def _sum(self) -> N:
        self._deeper()
        value = self._term()
        while sign := self._accept("+", "-"):
            term = self._term()
            value = self._bounded(value + term if sign == "+" else value - term)
        self._depth -= 1
        return value

    def _term(self) -> N:
        value = self._signed()
        operator = ""
        while True:
            if written := self._accept(*_TIMES, *_OVER):
                operator = written
                factor = self._signed()
            elif self._juxtaposed(after_division=operator in _OVER):
                factor = self._power()
            else:
                return value
            divides = bool(written) and operator in _OVER
            value = self._bounded(value / factor if divides else value * factor)

    def _signed(self) -> N:
        negative = False
        while sign := self._accept("+", "-"):
            negative ^= sign == "-"
        value = self._power()
        return -value if negative else value

    def _power(self) -> N:
        base = self._atom()
        if not self._accept("^"):
            return base
        self._deeper()
        exponent = self._signed() if self._peek() != "{" else self._group("{", "}")
        self._depth -= 1
        return self._raise(base, exponent)

    def _group(self, begin: str, end: str) -> N:
        self._expect(begin)
        value = self._sum()
        self._expect(end)
        return value

    def _frac(self) -> N:
        r"""Read the two groups behind a `\frac`."""
        top = self._group("{", "}")
        return self._bounded(top / self._group("{", "}"))
