r"""Hostile answers of 15 kinds, seeded: what a policy, or somebody who trains one, could write.

None is equal to its gold. That holds the number 7919, which no answer here can mean, or it is the
answer and one more.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

GOLDS = ("7919", r"\sqrt{7919}", r"\frac{7919}{2}", "$x^2+7919$", "(7919, 2)", "7919%",
         r"\begin{pmatrix} 7919 & 1 \\ 0 & 1 \end{pmatrix}", r"(-\infty, 7919)")  # fmt: skip

_SHAPES = (
    r"\boxed{%s}",
    r"So $\boxed{%s}$.",
    "The answer is %s.",
    "The answer is $%s$.",
    "#### %s",
)
_LONGEST = 100_000


@dataclass(frozen=True)
class Hostile:
    """A response that states a hostile answer, and a gold that it must never be equal to."""

    kind: str
    response: str
    gold: str


class Dice(random.Random):
    """Random sizes and choices."""

    def size(self, most: int = _LONGEST) -> int:
        """Small sizes are as likely as each larger order of magnitude."""
        return int(most ** self.random())

    def number(self, most: int = 999) -> int:
        return self.randint(2, most)

    def soup(self, pieces: str | list[str], most: int = 2000) -> str:
        return "".join(self.choices(pieces, k=self.size(most)))


def power_towers(dice: Dice) -> str:
    tower = str(dice.number(9))
    for _ in range(dice.number(8)):
        tower = f"{dice.number(99)}^{{{tower}}}"
    return tower + dice.choice(["", r"+\sqrt{2}", r"\pi", "+x", r"-\log(3)", "/7"])


def nested_roots(dice: Dice) -> str:
    depth = dice.size(2000)
    opening = dice.choice(
        [r"\sqrt{", r"\sqrt[3]{", r"\sqrt{2+", r"\sqrt[7]{x+", "\u221a{", r"\log{"]
    )
    return opening * depth + str(dice.number()) + "}" * dice.choice([depth, depth, depth - 1])


def factorials_and_sums(dice: Dice) -> str:
    most = 10 ** dice.number(12)
    return dice.choice(
        [
            f"{most}!",
            f"({dice.number(20)}!)!",
            f"{dice.number()}" + "!" * dice.size(500),
            rf"\binom{{{most}}}{{{most // 2}}}",
            rf"\sum_{{n=1}}^{{{most}}} \frac{{1}}{{n^{{{dice.number(9)}}}}}",
            rf"\prod_{{k=1}}^{{{most}}} (x+k)",
            rf"\int_0^{{{dice.number()}}} e^{{-x^{{{dice.number(9)}}}}} \sin(x^{{2}}) dx",
            rf"\lim_{{x \to 0}} \frac{{\sin^{{{dice.number()}}} x}}{{x^{{{dice.number()}}}}}",
        ]
    )


def huge_exponents(dice: Dice) -> str:
    most = 10 ** dice.number(12)
    return dice.choice(
        [
            f"{dice.number()}^{{{most}}}",
            f"{dice.number()}^{{-{most}}}",
            f"1e{most}",
            f"1.5 \\times 10^{{{most}}}",
            f"(1+x)^{{{most}}}",
            f"(x+y+z)^{{{dice.number()}}}-1",
            f"{dice.number()}^{{0.{dice.number()}}}^{{{dice.number()}}}",
            f"\\left(\\frac{{1}}{{{dice.number()}}}\\right)^{{{most}}}",
            f"({dice.number()}^{{{dice.number()}}})^{{{most}}} \\mod {dice.number()}",
        ]
    )


def stray_braces(dice: Dice) -> str:
    return dice.choice(
        [
            dice.soup("{}", _LONGEST),
            "}" * dice.size() + "5",
            "{" * dice.size() + "5",
            dice.soup(["{", "}", "5", "\\", "x", "\\{", "\\}", "^{", "_{", ","], 50_000),
        ]
    )


def boxes_and_blanks(dice: Dice) -> str:
    blanks = dice.choice([" ", "\t", "\n", "\u00a0", "~", r"\ ", r"\,", r"\quad "]) * dice.size(
        5000
    )
    return dice.choice(
        [
            rf"\boxed{{{blanks}5",
            rf"\boxed{{{blanks}}}",
            rf"\boxed{blanks}{{5}}",
            rf"\boxed{{1}}{blanks}\boxed{{2}}",
            r"\boxed{" * dice.size(20_000),
            rf"5{blanks}5{blanks}x",
            f"answer{blanks}is{blanks}5",
        ]
    )


def combining_characters(dice: Dice) -> str:
    marks = "\u0300\u0301\u0308\u0338\u20dd\u20e3\u0489\ufe0f\u200d"
    return "5" + dice.soup(marks, _LONGEST) + dice.choice(["", "x", "+1"])


def marks_of_direction(dice: Dice) -> str:
    marks = ["\u202e", "\u200f", "\u200e", "\u2066", "\u2069", "\u061c", "\u202c"]
    return dice.soup([*marks, "1", "5", "\u0663", "\u05d0", "-", ",", "."], 5000)


def enormous_matrices(dice: Dice) -> str:
    rows, columns = dice.size(60), dice.size(60)
    entry = dice.choice(["1", "x", r"\frac{1}{3}", r"\sqrt{2}", "10^{9}", ""])
    body = r" \\ ".join([" & ".join([entry] * columns)] * rows)
    name = dice.choice(["pmatrix", "bmatrix", "vmatrix", "array", "cases"])
    power = dice.choice(["", f"^{{{10 ** dice.number(9)}}}", "^{-1}", "^T"])
    return rf"\begin{{{name}}} {body} \end{{{name}}}{power}"


def code(dice: Dice, canary: str) -> str:
    call = dice.choice(
        [
            f"__import__('os').system('touch {canary}')",
            f"open('{canary}', 'w')",
            f"exec(\"open('{canary}', 'w')\")",
            f'eval(\'__import__("pathlib").Path("{canary}").touch()\')',
            f"().__class__.__base__.__subclasses__()[-1].__init__.__globals__['os'].mkdir('{canary}')",
            f"lambda: open('{canary}', 'w')",
            f"Symbol('x').evalf(open('{canary}', 'w'))",
            f"!!python/object/apply:os.system ['touch {canary}']",
            f"$(touch {canary})",
            f"`touch {canary}`",
            f"; touch {canary} #",
            rf"\write18{{touch {canary}}}",
            rf"\input{{|\"touch {canary}\"}}",
            rf"\immediate\openout1={canary} ",
            f"{{{{ self.__init__.__globals__.os.system('touch {canary}') }}}}",
        ]
    )
    around = dice.choice(
        ["%s", r"\text{%s}", r"\operatorname{%s}", "5+%s", "%s+x", r"\mathrm{%s}", "f(%s)"]
    )
    return around.replace("%s", call)


def broken_characters(dice: Dice) -> str:
    pieces = [
        "\ud800",
        "\udfff",
        "\udc80",
        "\x00",
        "\x01",
        "\x1b[2J",
        "\x7f",
        "\ufffe",
        "\U0010ffff",
    ]
    return dice.soup([*pieces, "5", "x", "+"], 5000)


def many_digits(dice: Dice) -> str:
    digits = str(dice.number(9)) * dice.size()
    return dice.choice(
        [
            digits,
            f"-{digits}",
            f"0.{digits}",
            f"{digits}.{digits}",
            rf"\frac{{{digits}}}{{{digits}1}}",
            f"{digits}/3",
            f"{digits}%",
            ",".join(["555"] * dice.size(20_000)),
            f"0x{digits}",
            f"{digits}_{{7}}",
            f"1.{digits}e{digits[:9]}",
        ]
    )


def macros(dice: Dice) -> str:
    many = dice.size(5000)
    return dice.choice(
        [
            r"\def\x{\x\x}\x",
            r"\newcommand{\a}{\b\b}\newcommand{\b}{\a\a}\a",
            r"\frac{" * many,
            r"\frac" * many + "12",
            r"\left(" * many + "5" + r"\right)" * many,
            r"\begin{align}" * dice.size(500),
            r"\text{" * many + "5" + "}" * many,
            r"\overline{" * many + "5" + "}" * many,
            "\\" * many,
            r"\catcode`\%=12 \loop\iftrue\repeat",
            "\\" + "a" * many,
            dice.soup([r"\pm ", r"\cup ", r"\in ", r"\le ", r"\mid ", r"\{", r"\}", "5", "x", "="]),
        ]
    )


def deep_nesting(dice: Dice) -> str:
    many = dice.size(5000)
    opening, closing = dice.choice(
        [("(", ")"), ("[", "]"), (r"\{", r"\}"), ("{", "}"), ("|", "|"), (r"\frac{1}{1+", "}"),
         ("x^{", "}"), ("x_{", "}"), ("-(", ")"), (r"\sin(", ")"), ("(1,", ")"),
         (r"\lfloor ", r"\rfloor ")]
    )  # fmt: skip
    return opening * many + "5" + closing * many


def long_lists(dice: Dice) -> str:
    item = dice.choice(
        ["1", "x", r"\sqrt{2}", "(1,2)", r"\frac{1}{2}", "x=1", "1/3", r"\text{a}", "-5"]
    )
    joined = dice.choice(
        [", ", ",", "; ", r" \cup ", " and ", "+", r" \text{ or } ", "<", "=", r"\\"]
    )
    around = dice.choice(["%s", "(%s)", r"\{%s\}", "[%s]"])
    return around.replace("%s", joined.join([item] * dice.size(20_000)))


KINDS: tuple[Callable[..., str], ...] = (
    power_towers, nested_roots, factorials_and_sums, huge_exponents, stray_braces,
    boxes_and_blanks, combining_characters, marks_of_direction, enormous_matrices, code,
    broken_characters, many_digits, macros, deep_nesting, long_lists,
)  # fmt: skip
_NUMBERS = (power_towers, huge_exponents, factorials_and_sums)


def hostile_answers(each: int, canary: str, seed: int = 0) -> Iterator[Hostile]:
    """Yield `each` answers of every kind; those of code would create the file `canary`."""
    for number in range(each):
        for kind in KINDS:
            dice = Dice(f"{seed} {kind.__name__} {number}")
            more: dict[str, Any] = {"canary": canary} if kind is code else {}
            answer = kind(dice, **more)
            one_more = [f"{answer}+1"] * 4 if kind in _NUMBERS else []
            gold = dice.choice([*GOLDS, *one_more])
            yield Hostile(kind.__name__, dice.choice(_SHAPES).replace("%s", answer), gold)
