r"""The slow path: math-verify compares what needs algebra. Only worker processes import it.

latex2sympy is called directly, so that it keeps the case of letters and understands degrees; lists,
names, units and brackets are compared by exact.py. math-verify's own timeouts stay off. They use
SIGALRM, which cannot interrupt one long C operation; the whole process is killed instead. What
`verify` would round to zero is told apart here.
"""

import re
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from sympy import And, Basic, Eq, Expr, Float, I, Rational, Symbol
from sympy.core.evalf import PrecisionExhausted
from sympy.core.function import AppliedUndef

from sphere_ray.grading.exact import Part, compare, equal_parts
from sphere_ray.grading.rational import rounded
from sphere_ray.grading.units import compatible
from sphere_ray.records import Verdict

_SPELLING = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_CASE = ConversionConfig(lowercase_symbols=False)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_ROOT = re.compile(r"\\sqrt|\^\s?\{[^{}]*/")
_PROSE = re.compile(r"(?<!_\{)(?<!_)\\text\s?\{[^{}]*[A-Za-z]{2}|\\\$")
_DIGITS = 300


def compare_symbolically(answer: str, gold: str) -> Verdict:
    """Return correct or wrong, or ungradable when one of the two cannot be parsed."""
    equal = compare(answer, gold, _equal)
    if equal is None:
        return Verdict.UNGRADABLE
    return Verdict.CORRECT if equal else Verdict.WRONG


def _equal(left: Part, right: Part) -> bool | None:
    decided = equal_parts(left, right)
    if decided is not None:
        return decided
    equations = left.name != right.name and "=" in left.text and "=" in right.text
    ours, theirs = (side.text if equations else _formula(side) for side in (left, right))
    if not compatible(left.unit, right.unit) or _PROSE.search(ours) or _PROSE.search(theirs):
        return False  # words in a formula have no value
    # \sqrt{1/m} is 1/\sqrt{m} for positive m only, which is what is meant where both have roots.
    positive = bool(_ROOT.search(ours) and _ROOT.search(theirs))
    found, target = _parse(ours, positive), _parse(theirs, positive)
    if found is None or target is None:
        return None
    if _false(found) or _false(target):
        return False
    if isinstance(target, Eq | And) and not isinstance(found, Eq | And):
        found, target = target, found  # `verify` takes the right side of an answer, not of a gold
    if _differ(found, target):  # this is cheaper than simplify()
        return False
    return bool(verify(target, found, timeout_seconds=None, allow_set_relation_comp=True))


def _formula(part: Part) -> str:
    exact = part.number is not None and not part.number.decimal
    return str(part.number.value) if part.number and exact else part.value


@lru_cache(maxsize=2048)
def _parse(text: str, positive: bool) -> Any:
    parsed = None
    with suppress(Exception):  # latex2sympy raises Exception itself
        parsed = latex2sympy(
            normalize_latex(text, _SPELLING),
            is_real=True,
            convert_degrees=bool(_TRIGONOMETRY.search(text)),
            normalization_config=None,
            conversion_config=_CASE,
        )
        known = {Symbol("i", real=True): I}
        for symbol in parsed.free_symbols if positive else ():
            known.setdefault(symbol, Symbol(symbol.name, positive=True))
        parsed = parsed.xreplace(known)
    return parsed


def _false(parsed: Any) -> bool:
    """Whether it states a false equation of numbers, as `3 = 5` and `x = 5 = 7` do."""
    equations = parsed.atoms(Eq) if isinstance(parsed, Basic) else ()
    return any(each.lhs.is_number and _differ(each.lhs, each.rhs) for each in equations)


def _differ(left: Any, right: Any) -> bool:
    """Whether two values are certainly unequal, even if math-verify calls them equal."""
    if not isinstance(left, Expr) or not isinstance(right, Expr):
        return False
    if left.is_Symbol or right.is_Symbol:
        return False
    # A fixed rational point for each variable turns algebra into a number.
    names = sorted(left.free_symbols | right.free_symbols, key=str)
    point = {symbol: Rational(101 + 37 * rank, 97) for rank, symbol in enumerate(names)}
    left, right = _with_values(left.doit().subs(point), right.doit().subs(point))
    if not left.is_number or not right.is_number:
        return False
    if left.has(Float) or right.has(Float):
        values = [side.evalf(_DIGITS // 10) for side in (left, right)]
        if any(not value.is_Rational and not value.is_Float for value in values):
            return False
        return rounded(Fraction(str(values[0]))) != rounded(Fraction(str(values[1])))
    return _certainly_nonzero(left - right)


def _with_values(left: Expr, right: Expr) -> tuple[Expr, Expr]:
    """Replace each f(rational) of an unknown function by a number, the same on both sides."""
    calls = sorted(left.atoms(AppliedUndef) | right.atoms(AppliedUndef), key=str)
    values = {
        call: Rational(211 + 53 * rank, 89)
        for rank, call in enumerate(calls)
        if all(argument.is_Rational for argument in call.args)
    }
    return left.xreplace(values), right.xreplace(values)


def _certainly_nonzero(difference: Expr) -> bool:
    if difference.is_Rational:
        return not difference.is_zero
    try:
        value = difference.evalf(5, maxn=_DIGITS, strict=True)
    except PrecisionExhausted:
        return False
    return bool(value.is_number and value != 0)
