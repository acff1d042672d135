r"""The slow path: math-verify compares two normalised answers. Only worker processes import it.

math-verify's own timeouts stay off. They use SIGALRM, which cannot interrupt one long C operation;
the whole process is killed instead. Known wrong verdicts of math-verify are prevented here: units
read as algebra, `\pm`, ordered against unordered lists, and small differences rounded to zero.
"""

import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Expr, Float, Rational, Tuple
from sympy.core.evalf import PrecisionExhausted
from sympy.core.function import AppliedUndef
from sympy.sets.sets import FiniteSet

from sphere_ray.grading.normalise import same_text
from sphere_ray.grading.units import compatible, split_unit
from sphere_ray.records import Verdict

_LATEX = (
    LatexExtractionConfig(
        boxed_match_priority=0,
        normalization_config=NormalizationConfig(
            basic_latex=True,
            units=False,
            malformed_operators=True,
            nits=True,
            boxed="all",
            equations=False,
        ),
    ),
)
_EXPLICIT_UNIT = re.compile(
    r"(?:\s*/?\s*\\(?:text|mathrm|operatorname)\s*\{[^{}]*\}(?:\^\{?-?\d\}?)?)+$"
)
_OPERAND_END = re.compile(r"[A-Za-z0-9)}\]!']\s*\Z")
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
_TUPLE = re.compile(r"\([^()\[\]]*,[^()\[\]]*\)")
_DIGITS = 300
_FLOAT_TOLERANCE = 1e-6


def compare_symbolically(answer: str, gold: str) -> Verdict:
    """Return correct or wrong, or ungradable when one of the two cannot be parsed."""
    answer, answer_unit = _split_explicit_unit(answer)
    gold, gold_unit = _split_explicit_unit(gold)
    if not compatible(answer_unit, gold_unit):
        return Verdict.WRONG
    if same_text(answer, gold):
        return Verdict.CORRECT
    answer, gold = _expand_plus_minus(answer), _expand_plus_minus(gold)
    answer, gold = _bracket_like(answer, gold), _bracket_like(gold, answer)
    targets, answers = _parse(gold), _parse(answer)
    if not targets or not answers:
        return Verdict.UNGRADABLE
    # The numeric check comes first: it is cheap, and simplify() is slowest on unequal things.
    equal = any(
        not _differ(target, found) and verify(target, found, timeout_seconds=None)
        for target in targets
        for found in answers
    )
    return Verdict.CORRECT if equal else Verdict.WRONG


@lru_cache(maxsize=1024)
def _parse(text: str) -> tuple[Any, ...]:
    boxed = f"\\boxed{{{text}}}"
    return tuple(parse(boxed, _LATEX, fallback_mode="no_fallback", parsing_timeout=None))


def _split_explicit_unit(text: str) -> tuple[str, str]:
    r"""Cut off a final `\text{...}` or `\mathrm{...}`. Bare letters stay: they may be algebra."""
    match = _EXPLICIT_UNIT.search(text)
    if match is None or not _OPERAND_END.search(text, 0, match.start()):
        return text, ""
    split = split_unit("1" + match.group())
    return (text, "") if split is None else (text[: match.start()], split[1])


def _expand_plus_minus(text: str) -> str:
    r"""Write `a \pm b` as `a + b, a - b`, where that is unambiguous."""
    if len(_PLUS_MINUS.findall(text)) != 1 or "," in text:
        return text
    return ", ".join(_PLUS_MINUS.sub(sign, text) for sign in "+-")


def _bracket_like(text: str, other: str) -> str:
    """Give a bare list the brackets of the tuple it is compared with, so that order counts."""
    bare = "," in text and not any(bracket in text for bracket in "([{")
    return f"({text})" if bare and _TUPLE.fullmatch(other) else text


def _differ(left: Any, right: Any) -> bool:
    """Whether two values are certainly unequal, even if math-verify calls them equal."""
    for container in (FiniteSet, Tuple):
        if isinstance(left, container) and isinstance(right, container):
            return any(all(_differ(item, other) for other in right.args) for item in left.args)
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
        return _far_apart(left, right)
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


def _far_apart(left: Expr, right: Expr) -> bool:
    first, second = abs(left.evalf(20)), abs(right.evalf(20))
    gap = abs((left - right).evalf(20))
    if not (gap.is_Float and first.is_Float and second.is_Float):
        return False
    return bool(gap > _FLOAT_TOLERANCE * max(first, second))


def _certainly_nonzero(difference: Expr) -> bool:
    if difference.is_Rational:
        return not difference.is_zero
    try:
        value = difference.evalf(5, maxn=_DIGITS, strict=True)
    except PrecisionExhausted:
        return False
    return bool(value.is_number and value != 0)
