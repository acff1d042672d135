r"""Gives answers one spelling. Typesetting is stripped; a value is never changed."""

import re
import unicodedata

MAX_CHARS = 2000
"""Longer texts are only stripped, so that hostile text stays cheap; they are no final answers."""

_PLAIN = re.compile(r"-?[0-9]+(?:\.[0-9]+)?|[A-Z]")
_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        "\u00d7": r"\times ", "\u22c5": r"\cdot ", "\u00b7": r"\cdot ", "\u00f7": "/",
        "\u2044": "/", "\u00b1": r"\pm ", "\u00b0": r"^\circ ", "\u03c0": r"\pi ",
        "\u03b8": r"\theta ", "\u03bc": r"\mu ", "\u2264": r"\le ", "\u2265": r"\ge ",
        "\u2260": r"\ne ", "\u221e": r"\infty ", "\u222a": r"\cup ", "\u2228": r"\lor ",
        "\u2205": r"\emptyset ", "\u2208": r"\in ", "\u2019": "'", "\u3002": ".", "\u3001": ",",
        "\u20ac": "EUR ", "\u00a3": "GBP ", "\u20b9": "INR ", "\u00a5": "JPY ",
    }
)  # fmt: skip
_SMALL = str.maketrans(
    "".join(map(chr, (0x2070, 0xB9, 0xB2, 0xB3, *range(0x2074, 0x207A), *range(0x2080, 0x208A))))
    + "\u207a\u207b\u207f", "01234567890123456789+-n"
)  # fmt: skip
_RAISED = re.compile("[\u2070-\u207b\u207f\u00b9\u00b2\u00b3]+")
_LOWERED = re.compile("[\u2080-\u2089]+")
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_ROOT = re.compile("\u221a\\s*([0-9.]+|[A-Za-z]|\\([^()]*\\))")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_RENAMED = {
    **dict.fromkeys(("left", "right", "displaystyle", "textstyle"), ""),
    **dict.fromkeys(("dfrac", "tfrac", "cfrac", "nicefrac", "sfrac"), r"\frac"),
    **{f"var{name}": f"\\{name}" for name in ("epsilon", "theta", "kappa", "rho", "sigma", "phi")},
    "leq": r"\le", "leqslant": r"\le", "geq": r"\ge", "geqslant": r"\ge", "neq": r"\ne", "lt": "<",
    "gt": ">", "varnothing": r"\emptyset", "dots": r"\ldots", "cdots": r"\ldots", "langle": "(",
    "rangle": ")", "vee": r"\lor", "degree": r"^\circ",
}  # fmt: skip
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\s+", " "),
        (r"(?<!\\)(?:\\[()\[\]]|\$)", " "),
        (r"\\(?:left|right)\.|\\[bB]igg?[lr]?(?![a-zA-Z])", ""),
        (r"\\(?:text)?color\s*\{\w*\}|\\!\s*|\{\}", ""),
        (r"(?<!\\)(?:\\(?:[,;:> ]|q?quad(?![a-zA-Z]))|~)", " "),
        (r"\\(?:boxed|fbox)\s*\{([^{}]*)\}", r"\1"),
        # Fonts: a letter stays a letter, everything else becomes text.
        (r"\\(?:math(?:bf|it|sf)|bm|boldsymbol)\s*\{\s*([A-Za-z])\s*\}", r"\1"),
        (r"\\mathrm\s*\{\s*([ei])\s*\}", r"\1"),
        (r"\\(?:mathrm|operatorname|text)\s?\{(sin|cos|tan|log|ln|exp|gcd|lcm|max|min)\}", r"\\\1"),
        (r"\\(?:text(?:bf|it|rm|sf|normal)|math(?:rm|bf|it|sf)|operatorname|bm|boldsymbol|mbox"
         r"|rm|bf)\s*\{([^{}]*)\}", r"\\text{\1}"),
        (r"\\text\s*\{\s*(-?[0-9][0-9.,/]*)\s*\}", r"\1"),
        (r"(?:[,;]\s?)?\\text\s*\{[, ]*and\s*\}|[,;]?\sand\s", ", "),
        (r"(?:[,;]\s?)?\\text\s*\{[, ]*or\s*\}|[,;]?\sor\s", r" \\lor "),
        (r"(?<=[0-9])\{,\}(?=[0-9]{3})", ","),
        (r"(?<=[0-9A-Fa-f])\s?(?:\\text\s*\{)?\s?\(?(?:in )?base[ -]([0-9]{1,2})\)?\s?\}?$",
         r"_{\1}"),
        # One name for one thing.
        (r"\^\s?\{\s?\\circ\s?\}", r"^\\circ"),
        (r"<=", r"\\le "), (r">=", r"\\ge "), (r"\.\.\.", r"\\ldots "),
        (r"\\\{\s?\\\}", r"\\emptyset "),
        (r"\\p?mod\s?([0-9]+|[a-z])|\(\s?mod\s?([0-9a-z]+)\s?\)", r"\\pmod{\1\2}"),
        (r"_\{\s*\\(max|min)\s*\}", r"_{\1}"),
        (r"\\log\s?_\s?(?:e(?![a-z])|\{\s?e\s?\})", r"\\ln "),
        (r"(?<![\\A-Za-z])(pi|theta|sqrt|sin|cos|tan|log|ln|infty)(?![A-Za-z])", r"\\\1"),
        (r"(?<![\\A-Za-z])infinity(?![A-Za-z])", r"\\infty "),
        (r"(?<![0-9A-Za-z)}\]])\+\s?(?=\\infty)", ""),
        # Arguments without braces, and points that no digit follows.
        (r"\\sqrt\s?(?:\(([^()]*)\)|([0-9A-Za-z]))", r"\\sqrt{\1\2}"),
        (r"\\frac(?![A-Za-z])\s?((?!\\sqrt|\\frac)\\[A-Za-z]+|[0-9A-Za-z])", r"\\frac{\1}"),
        (r"\\frac\s?(\{[^{}]*\})\s?(\\(?!frac|sqrt)[A-Za-z]+|[0-9A-Za-z])", r"\\frac\1{\2}"),
        (r"(?<=[0-9])\.(?=[/*^+\-)}])", ""),
        (r"\\%", "%"),
        (r"^(?:\\approx|\u2248|approximately|about)(?![a-zA-Z])", ""),
        (r"\s+", " "),
    )
)  # fmt: skip
_DOUBLED = re.compile(r"\\{2,}(?=[A-Za-z]{2})")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_GAP = re.compile(r"(?<![0-9.])\s+|\s+(?![0-9.])")


def normalise(text: str) -> str:
    """Strip delimiters, spacing commands, fonts and end punctuation. Idempotent."""
    text = text.strip()
    if len(text) > MAX_CHARS or _PLAIN.fullmatch(text):
        return text
    text = text if text.isascii() else _latex_of(text)
    while len(text) <= MAX_CHARS and (tidied := _tidy(text)) != text:
        text = tidied
    return text.strip()


def _latex_of(text: str) -> str:
    """Write characters of Unicode as LaTeX, and drop those that cannot be seen."""
    text = _RAISED.sub(lambda found: f"^{{{found[0].translate(_SMALL)}}}", text)
    text = _LOWERED.sub(lambda found: f"_{{{found[0].translate(_SMALL)}}}", text)
    text = _VULGAR.sub(lambda found: _fraction(found[0]), text)
    text = _ROOT.sub(lambda found: rf"\sqrt{{{found[1].strip('()')}}}", text)
    text = unicodedata.normalize("NFKC", text.replace("\u221a", r"\sqrt ")).translate(_SYMBOLS)
    return "".join(char for char in text if unicodedata.category(char) != "Cf")


def _fraction(char: str) -> str:
    parts = unicodedata.normalize("NFKC", char).replace("\u2044", "}{")
    return f"\\frac{{{parts}}}"


def _tidy(text: str) -> str:
    if "\\begin" not in text:  # where `\\\\` ends a row
        text = _DOUBLED.sub(r"\\", text)
    text = _COMMAND.sub(lambda found: _RENAMED.get(found[1], found[0]), text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return balance_braces(text.strip(" *`:").lstrip("= ").rstrip(" .,;"))


def balance_braces(text: str) -> str:
    """Drop closing braces that nothing opened and close what stays open."""
    depth, begin = 0, 0
    kept = list[str]()
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}" and depth:
            depth -= 1
        elif match[0] == "}":
            kept.append(text[begin : match.start()])
            begin = match.end()
    return "".join((*kept, text[begin:], "}" * depth))


def same_text(left: str, right: str) -> bool:
    """Whether two normalised answers are the same text.

    Spaces do not count except between digits (`1 1/2` is not `11/2`), nor does the case of words.
    """
    if left == right:
        return bool(left)
    left, right = _GAP.sub("", left), _GAP.sub("", right)
    if left == right:
        return bool(left)
    words = left.isalpha() and len(left) > 1 and left.casefold() == right.casefold()
    return words and all(
        word.islower() or word.istitle() or word.isupper() for word in (left, right)
    )
