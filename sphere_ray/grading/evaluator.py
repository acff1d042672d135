r"""Evaluates written arithmetic by recursive descent. Subclasses say what an atom and a power are.

The depth is bounded here and the size by the subclass, so that no text can make it slow.
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
    """The text is not an expression of the kind that is read, or exceeds the bounds."""


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
            UnreadableError: the text is not of the kind that is read.
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

    @abstractmethod
    def _juxtaposed(self, *, after_division: bool) -> bool:
        """Whether a factor follows without a sign between."""

    def _peek(self) -> str:
        match = _TOKEN.match(self._text, self._at)
        return (match[1] or match[2]) if match else ""

    def _accept(self, *wanted: str) -> str:
        match = _TOKEN.match(self._text, self._at)
        if match is None or (match[1] or match[2]) not in wanted:
            return ""
        self._at = match.end()
        return match[1] or match[2]

    def _sum(self) -> N:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UnreadableError
        value = self._term()
        while sign := self._accept("+", "-"):
            term = self._term()
            value = self._bounded(value + term if sign == "+" else value - term)
        self._depth -= 1
        return value

    def _term(self) -> N:
        value = self._signed()
        divides = False
        while True:
            if operator := self._accept(*_TIMES, *_OVER):
                divides = operator in _OVER
                factor = self._signed()
                value = self._bounded(value / factor if divides else value * factor)
            elif self._juxtaposed(after_division=divides):
                value = self._bounded(value * self._power())
            else:
                return value

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
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UnreadableError
        exponent = self._group("{", "}") if self._peek() == "{" else self._signed()
        self._depth -= 1
        return self._raise(base, exponent)

    def _group(self, begin: str, end: str) -> N:
        if not self._accept(begin):
            raise UnreadableError
        value = self._sum()
        if not self._accept(end):
            raise UnreadableError
        return value

    def _frac(self) -> N:
        r"""Read the two groups behind a `\frac`."""
        top = self._group("{", "}")
        return self._bounded(top / self._group("{", "}"))
