r"""Kinds of answers that graders get wrong, after public bug reports. A box against a gold.

Each case is graded with its sides exchanged too, where both of them are answers.
"""

import asyncio
import json
from pathlib import Path

import pytest

from sphere_ray.grading import GraderPool
from sphere_ray.records import Verdict

RIGHT = {
    "matrix": [
        (r"\begin{pmatrix} 3 \\ 7 \end{pmatrix}", r"\begin{pmatrix}3\\7\end{pmatrix}"),
        (r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
        (
            r"\left(\begin{array}{cc}1&2\\3&4\end{array}\right)",
            r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        ),
        (
            r"\begin{pmatrix}1/2\\-\sqrt{8}\end{pmatrix}",
            r"\begin{pmatrix} 0.5 \\ -2\sqrt2 \end{pmatrix}",
        ),
        (
            r"\mathbf{M} = \begin{pmatrix}a&b\\c&d\end{pmatrix}",
            r"\begin{pmatrix} a & b \\ c & d\end{pmatrix}",
        ),
    ],
    "thousands": [
        (r"12,\!345", "12345"),
        (r"12{,}345{,}678", "12,345,678"),
        (r"x = 1,250", "1250"),
        (r"\$2,\! 500", "2500"),
        (r"1\,000\,000", "1000000"),
        ("12,345.50", "12345.5"),
    ],
    "list in words": [
        (r"3, 5, \text{ and } 8", "3,5,8"),
        ("3, 5 and 8", "8, 5, 3"),
        (r"2 \text{ and } 6", "6,2"),
        (r"x = 3 \text{ and } x = 4", "3, 4"),
        ("1; 2", "2, 1"),
    ],
    "base": [
        ("1011_2", r"1011_{2}"),
        (r"2A_{16}", "2A_{16}"),
        (r"123_{7}", r"123 \text{ (base 7)}"),
        ("44 base 5", "44_5"),
    ],
    "complex": [
        (r"3 - 2 \cdot i", "3-2i"),
        ("-2i + 3", "3-2i"),
        ("i(1-2i)", "2+i"),
        (r"\frac{5}{1+2i}", "1-2i"),
        (r"e^{i \pi}", "-1"),
        ("(1+i)^2", "2i"),
    ],
    "root sign": [
        ("\u221a7", r"\sqrt{7}"),
        ("3\u221a11", r"3\sqrt{11}"),
        ("\u221a(x+1)", r"\sqrt{x+1}"),
        ("\u221a16", "4"),
        ("5 sqrt(2)", r"\sqrt{50}"),
    ],
    "interval": [
        ("x > 2", r"(2, \infty)"),
        (r"1 \le x < 5", "[1,5)"),
        ("5 > x >= 1", "[1,5)"),
        (r"\{x \mid x \le -1\}", r"(-\infty,-1]"),
        (r"x \in [0, 1]", "[0,1]"),
        (r"x < 0 \text{ or } x > 1", r"(-\infty,0) \cup (1,\infty)"),
        (r"t \geqslant 2", r"2 \leq t"),
    ],
    "units": [
        (r"15\textnormal{ miles}", "15"),
        ("60 km/h", "60"),
        ("8 m^3", "8"),
        ("8 m\u00b3", "8"),
        (r"2\sqrt{3} square feet", r"2\sqrt{3}"),
        ("EUR 20", "20"),
        ("20\u20ac", "20 EUR"),
        (r"30\degree", "30"),
        ("8 red marbles", "8"),
        ("10 hot dogs", "10"),
        (r"\$5 per hour", "5"),
        ("12 oak trees", "12"),
        ("30 sq ft", "30 square feet"),
        ("55 mph", "55 miles per hour"),
        ("14 (pears)", "14"),
        ("7 dozen", "84"),
        ("1.5 million", "1500000"),
        ("9 kg", r"9 \text{ kilograms}"),
    ],
    "percent": [
        (r"12\frac12\%", r"12.5\%"),
        ("40%", "0.4"),
        ("40%", "40"),
        ("40 percent", r"\frac{2}{5}"),
        ("100%", "1"),
    ],
    "mixed and repeating": [
        ("3\u20444", "0.75"),
        ("3\u2153", r"\frac{10}{3}"),
        (r"0.\overline{45}", r"\frac{5}{11}"),
        (r"0.1\overline{6}", "1/6"),
        ("0.333...", "1/3"),
        (r"0.272727\ldots", r"\frac{3}{11}"),
        (r"\nicefrac{3}{4}", "0.75"),
        (r"\frac\pi3", r"\frac{\pi}{3}"),
        (r"\frac34", "0.75"),
        (r"2\tfrac{1}{2}", "2.5"),
    ],
    "rounding": [
        ("1.41421356", r"\sqrt{2}"),
        ("1.414214", r"\sqrt{2}"),
        ("1.414214", "1.41421356"),
        ("0.034965", r"\frac{5}{143}"),
        ("0.666667", "2/3"),
        ("0.507813", "65/128"),
        ("3.141593", r"\pi"),
    ],
    "plus and minus": [
        (r"\pm 2, \pm 7", "2, -2, 7, -7"),
        (r"1 \pm \sqrt{3}", r"1-\sqrt{3}, 1+\sqrt{3}"),
        (r"x = \frac{1 \pm \sqrt{5}}{2}", r"\frac{1+\sqrt5}{2}, \frac{1-\sqrt5}{2}"),
    ],
    "text": [
        (r"\text{B,D}", "B, D"),
        ("3:15 p.m.", r"\text{3:15 PM}"),
        (r"\text{Ellipse.}", "ellipse"),
        (r"\textbf{Tuesday}", r"\text{tuesday}"),
        ("Evelyn", r"\text{Evelyn}"),
    ],
    "choice": [
        (r"\textbf{(C)}\ 42", "C"),
        ("C. 42", "C"),
        ("(C) 42", "42"),
        (r"\text{(C)}", "C"),
        ("C) 42", r"\text{(C)}"),
    ],
    "unicode": [
        ("x\u00b9\u2070", "x^{10}"),
        ("3\u00d710\u207b\u2074", r"3 \times 10^{-4}"),
        ("\u20105", "-5"),
        ("5\u200b", "5"),
        ("\u2212\u00bd", "-0.5"),
        ("a\u2081", "a_1"),
        ("\uff16", "6"),
        ("\uff081\uff0c2\uff09", "(1,2)"),
        ("-\uff13\uff0e\uff15", "-3.5"),
        ("2\u03c0", r"2\pi"),
        ("x\u22642", r"x \le 2"),
    ],
    "chinese": [
        ("12\u4e2a", "12"),
        ("12\\text{ \u672c}", "12"),
        ("3\u4e07", "30000"),
        ("5\uff0c7", "7, 5"),
    ],
    "algebra": [
        (r"\sqrt{\frac{1}{y}}", r"\frac{1}{\sqrt{y}}"),
        (r"\sqrt[3]{x^2}", "x^{2/3}"),
        (r"\mathrm{e}^2", "e^2"),
        (r"\cos 60^\circ", r"\frac12"),
        ("2*pi*r", r"2 \pi r"),
        (r"\log_e 2", r"\ln 2"),
        (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^n k"),
        (r"\binom{5}{2}", "10"),
        (r"2^{10}", "1024"),
        ("3:2", "6:4"),
        (r"\pi(R^2-r^2)", r"\pi (R-r)(R+r)"),
        (r"\sin^2 x", r"1 - \cos^2 x"),
    ],
    "names": [
        ("x=2, y=5", "(2,5)"),
        ("y=5, x=2", "(2,5)"),
        ("y=5, x=2", "x=2, y=5"),
        ("(x,y) = (2,5)", "(2,5)"),
        ("AB = 5", "5"),
        (r"\text{Area} = 5", "5"),
        ("f(x) = 2x", "2x"),
        ("S = 2 + 3 = 5", "5"),
        ("2x + y = 3", "y = 3 - 2x"),
        ("5 = x", "x = 5"),
    ],
    "brackets": [
        ("[17]", "17"),
        (r"\langle 2, 3 \rangle", "(2,3)"),
        ("2, 3", "(2,3)"),
        ("[2, 3]", "2, 3"),
        (r"\{2, 3\}", "3, 2"),
        (r"\varnothing", r"\emptyset"),
        (r"\{\}", r"\emptyset"),
        (r"+\infty", r"\infty"),
        ("infinity", r"\infty"),
        (r"x \equiv 3 \pmod 7", r"x \equiv 3 \pmod{7}"),
        (r"1, 2, \dots", r"1, 2, \ldots"),
    ],
    "typesetting": [
        ("= 52", "52"),
        (r"\color{red}{7}", "7"),
        (r"{\color{blue} 7}", "7"),
        (r"\boldsymbol{7}", "7"),
        (r"\bigl(1,2\bigr)", "(1,2)"),
    ],
}

WRONG = {
    "matrix": [
        (
            r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
            r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}",
        ),
        (r"\begin{pmatrix} 4 \\ 0 \end{pmatrix}", r"\begin{pmatrix} 5 \\ 0 \end{pmatrix}"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"),
        (r"\begin{pmatrix} x \\ y \end{pmatrix}", r"\begin{pmatrix} y \\ x \end{pmatrix}"),
    ],
    "base": [("1011_2", "1011_3"), ("44_5", "44"), ("25_6", "25"), ("2A_{16}", "42")],
    "root sign": [("\u221a13", "3"), ("\u221a2", "2"), ("2\u221a3", r"\sqrt{6}")],
    "changed by words": [
        ("3 tenths", "3"),
        ("2 thirds", "2"),
        ("3 halves", "3"),
        ("2 dozen", "2"),
        ("5 squared", "5"),
        ("3 factorial", "3"),
        ("10 divided by two", "10"),
        ("7 choose two", "7"),
        ("4 percent of nine", "9"),
        ("5 or more or less than six", "5"),
        (r"12\$50", "1250"),
        ("7 not eight", "7"),
        ("3\u4e07", "3"),
    ],
    "units": [
        ("5 cents", "5 dollars"),
        ("1 m", "100 cm"),
        ("5 m^2", "5 m^3"),
        ("5 hours", "5 minutes"),
        ("3 n", "3"),
        ("3{x}", "3"),
        ("3 n^2", "3"),
        ("2 ab", "2"),
        (r"\frac{37}{4} m", r"\frac{37}{4}"),
        ("6x", "6"),
    ],
    "percent": [("500%", "5"), ("0.5%", "0.5"), ("2%", "0.2"), ("200%", "2"), ("1%", "1")],
    "rounding": [
        ("0.333", "1/3"),
        ("0.666666", "2/3"),
        ("1.41", r"\sqrt{2}"),
        ("1000001", "1000000"),
        ("4.49", "4.5"),
        ("0.0000001", "0.0000002"),
        ("355/113", r"\pi"),
        ("12345.67", "12345.68"),
        (r"10^{-20} \pi", r"10^{-21} \pi"),
    ],
    "interval": [
        ("x > 2", r"[2,\infty)"),
        ("[1,5)", "(1,5]"),
        (r"1 \le x < 5", r"1 \le x \le 5"),
        ("0,1", "[0,1)"),
    ],
    "brackets": [
        ("(1,2)", "(2,1)"),
        ("(1,2)", r"\{1,2\}"),
        ("(1,2)", "[1,2]"),
        ("2,1", "(1,2)"),
        ("1,2", "1,2,3"),
        ("5, 5", "5"),
    ],
    "names": [
        ("y = 2", "x = 2"),
        ("5, 2", "x=2, y=5"),
        ("x=5, y=2", "x=2, y=5"),
        ("3 = 5", "5"),
        ("2 + 2 = 5", "5"),
        ("x = 4 = 5", "5"),
        ("y = 3x", "x = 3y"),
    ],
    "case": [
        (r"\pi(r^2-R^2)", r"\pi(R^2-r^2)"),
        (r"\frac{v}{V}", r"\frac{V}{v}"),
        ("0", r"\pi(R^2-r^2)"),
        ("1", r"\frac{V}{v}"),
        ("Ab", "aB"),
    ],
    "letters are no product": [
        ("AC", "CA"),
        ("NOPE", "OPEN"),
        ("listen", "silent"),
        ("Monday", "Tuesday"),
    ],
    "hedges": [
        ("3 or 4", "4"),
        (r"3 \text{ or } 4", "3"),
        (r"1 \lor 2", "2"),
        ("(A) or (B)", "B"),
        (r"\pm 4", "4"),
    ],
    "degrees": [(r"\tan 20", r"\tan 20^\circ"), (r"\sin 30", r"\frac12")],
    "choice": [("B. 42", "C"), ("(B) 42", "(C) 42")],
    "injection": [(r"\text{exit()}*0+5", "5"), (r"5 + 0 \cdot \text{os.system}", "5")],
}


async def unexpected(
    pool: GraderPool, cases: list[tuple[str, str]], expected: Verdict
) -> list[tuple[str, str, str]]:
    both = [*cases, *((gold, answer) for answer, gold in cases)]
    grades = await asyncio.gather(*(pool.grade(f"So $\\boxed{{{a}}}$.", gold) for a, gold in both))
    return [
        (*case, grade.verdict)
        for case, grade in zip(both, grades, strict=True)
        if grade.verdict is not expected
    ]


@pytest.mark.parametrize("kind", RIGHT)
async def test_one_value_in_two_spellings_is_right(pool: GraderPool, kind: str) -> None:
    assert await unexpected(pool, RIGHT[kind], Verdict.CORRECT) == []


@pytest.mark.parametrize("kind", WRONG)
async def test_another_value_is_wrong(pool: GraderPool, kind: str) -> None:
    assert await unexpected(pool, WRONG[kind], Verdict.WRONG) == []


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        (r"$d = \boxed{2\frac{1}{2}},$ or $\boxed{\frac{5}{2}}$ miles", "2.5", Verdict.CORRECT),
        (r"$\boxed{x-4}$ or $\boxed{-4+x}$", "x-4", Verdict.CORRECT),
        (r"$a=\boxed{-1}$ and $a=\boxed{6}$.", "6, -1", Verdict.CORRECT),
        (r"$a=\boxed{-1}$ and $a=\boxed{6}$.", "6", Verdict.WRONG),
        (r"x must be $\boxed{3}$ or $\boxed{\frac{2}{5}}$", "3, 0.4", Verdict.CORRECT),
        (r"x must be $\boxed{3}$ or $\boxed{\frac{2}{5}}$", "3", Verdict.WRONG),
        ("9 (apples)", "9", Verdict.CORRECT),
        ("[29]", "29", Verdict.CORRECT),
        ("She pays 4.\n#### 1,800", "1800", Verdict.CORRECT),
    ],
)
async def test_golds_with_several_boxes_or_words(
    pool: GraderPool, gold: str, answer: str, verdict: Verdict
) -> None:
    assert (await pool.grade(f"\\boxed{{{answer}}}", gold)).verdict is verdict


async def test_public_reports(pool: GraderPool, data_dir: Path) -> None:
    path = data_dir / "grading_cases.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len(rows) > 100
    grades = await asyncio.gather(*(pool.grade(row["response"], row["gold"]) for row in rows))
    found = [row | {"found": grade.verdict} for row, grade in zip(rows, grades, strict=True)]
    assert [row for row in found if row["found"] != row["expected"]] == []
