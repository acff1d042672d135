r"""Finds the final answer that a response states, and the gold answer in a solution.

An answer counts only where it is declared as one. The last number of a text is no answer: a policy
that is rewarded for mentioning numbers learns to mention numbers. All steps take time linear in
the text, of which only the end is read.
"""

import re

from sphere_ray.grading.normalise import balance_braces, normalise

MAX_SEARCHED_CHARS = 100_000
"""Only the last so many characters of a text are searched."""

_MAX_STATED_CHARS = 2000
_MAX_BETWEEN_CHARS = 300

_BOX_TOKEN = re.compile(
    r"\\(?:boxed|fbox)\s*(?:\{|([0-9]+|[A-Za-z])(?![A-Za-z]))|\\.|[{}]", re.DOTALL
)
_SEPARATOR = re.compile(r"[\s$,;.&~{}]|\\[()\[\],;:! \\]|\\q?quad\b|\\text(?=\s*\{)|\b(?:and|or)\b")
_NAME = re.compile(r"(?:(?:\\[A-Za-z]+|[A-Za-z])(?:_\w)?=)?")
_FORMULA = re.compile(r"\\[A-Za-z]+|[^A-Za-z]|(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
_OR = re.compile(r"\bor\b")
_PHRASE = re.compile(
    r"(?:\banswer\b(?:[ \t](?:to|of|for)\b[^\n.:]{0,80}?)?[*_ \t]{0,8}"
    r"(?:(?:is|was|are|(?:must|should|would|will) be|equals)\b|:|=|\n)"
    r"|\u7b54\u6848[ \t]{0,4}(?:\u662f|\u4e3a|:|\uff1a|=))"
    r"[*_:\s]{0,16}(?:(?:therefore|thus|just|simply|equal to)[ \t])?(?=[^\n])",
    re.IGNORECASE,
)
_DISPLAY = re.compile(r"\s{0,8}(?:\\\[|\$\$)(.{1,1000}?)(?:\\\]|\$\$)", re.DOTALL)
_END = re.compile(
    r"\.(?=\s|\*|$)|\u3002|<\||</?[a-z]|[ ,]+(?:because|since|which|where|so|therefore)\b"
    r"|[;,]\s+(?:and )?I\b|(?<=[0-9)}\]$%]),\s+(?!and\b|or\b)(?=[a-z]{2})"
)
_SUBJECT = re.compile(
    r"(?:the|this|that|it|there|our|we|so)\b.*\b(?:is|are|equals|be)\s+(?=[^a-z]{0,8}[0-9\\])",
    re.IGNORECASE,
)
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_VALUE = re.compile(r"[0-9\\]")
_PROSE_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}")
_PROSE_WORDS = 6
_NOTHING = frozenset(
    """
    n/a|na|none|null|nan|unknown|no answer|no final answer|see solution|see above|proof|tbd|?|-
    """.strip().split("|")
)


def extract_answer(response: str) -> str | None:
    r"""Return the stated final answer, or None.

    In order of priority: the last closed `\boxed{}` (neighbours with nothing but "and", "or" or
    punctuation between them count as one list), the last `<answer>x</answer>`, what follows the
    last `####`, the last "answer is x" or "answer: x", the last **x** in Markdown bold on the last
    line that holds a value.
    """
    text = response[-MAX_SEARCHED_CHARS:]
    return _boxed(text) or _tagged(text) or _after_hashes(text) or _stated(text) or _bold(text)


def extract_gold(text: str) -> str:
    r"""Return the gold answer in the answer field of a data set.

    It is the `#### x` of GSM8K, else the last `\boxed{}` of a MATH solution with its neighbours,
    else what "The answer is: x" states, else the text itself. Braces are balanced, since some sets
    keep only a fragment of the original box.
    """
    text = text[-MAX_SEARCHED_CHARS:]
    found = _after_hashes(text) or _boxed(text) or (_stated(text) if "nswer" in text else None)
    return balance_braces(" ".join((found or text).split()))


def why_no_answer(text: str) -> str | None:
    """Say why the answer field of a data set states no final answer; None where it states one."""
    text = text[-MAX_SEARCHED_CHARS:]
    gold = extract_gold(text)
    marked = gold != balance_braces(" ".join(text.split()))
    if "####" in text and not marked:
        return "nothing follows ####"
    if ("\\boxed" in text or "\\fbox" in text) and not marked:
        return "its box is empty or not closed"
    if normalise(gold).casefold() in _NOTHING | {""}:
        return "it says that there is none"
    if len(_PROSE_WORD.findall(gold[:_MAX_STATED_CHARS])) >= _PROSE_WORDS:
        return "it is a sentence without ####, \\boxed or 'the answer is'"
    return None


def _boxed(text: str) -> str | None:
    spans = _boxed_spans(text) if "\\boxed" in text or "\\fbox" in text else []
    if not spans:
        return None
    begin, inner, inner_end, _ = spans[-1]
    answers, joined = [text[inner:inner_end].strip()], ", "
    for left, left_inner, left_inner_end, left_end in reversed(spans[:-1]):
        between = text[left_end:begin]
        if len(between) > _MAX_BETWEEN_CHARS or not _separates(between):
            break
        if _OR.search(between):
            joined = " or "
        answers.insert(0, text[left_inner:left_inner_end].strip())
        begin = left
    return joined.join(dict.fromkeys(answers))


def _separates(between: str) -> bool:
    """Whether the text between two boxes makes a list of them: "and", `\\quad`, a name, a row."""
    bare = _SEPARATOR.sub("", between)
    row = "\\\\" in between and bare.endswith("=") and not bare.startswith("=")
    return bool(_NAME.fullmatch(bare)) or (row and not _FORMULA.sub("", between))


def _boxed_spans(text: str) -> list[tuple[int, int, int, int]]:
    """Return (begin, inner begin, inner end, end) of each closed, non-empty, outermost box."""
    spans: list[tuple[int, int, int, int]] = []
    open_braces: list[tuple[int, int] | None] = []
    for match in _BOX_TOKEN.finditer(text):
        token = match[0]
        if token == "{":
            open_braces.append(None)
        elif token == "}":
            box = open_braces.pop() if open_braces else None
            if box and _VISIBLE.search(text, box[1], match.start()):
                while spans and spans[-1][0] > box[0]:
                    spans.pop()
                spans.append((*box, match.start(), match.end()))
        elif match[1]:
            spans.append((match.start(), *match.span(1), match.end()))
        elif len(token) > 2:
            open_braces.append(match.span())
    return spans


_VISIBLE = re.compile(r"\S")


def _tagged(text: str) -> str | None:
    end = text.rfind("</answer>")
    begin = text.rfind("<answer>", 0, max(end, 0))
    return text[begin + len("<answer>") : end].strip() or None if begin >= 0 else None


def _after_hashes(text: str) -> str | None:
    _, hashes, rest = text.rpartition("####")
    return (
        _END_MARK.split(rest.partition("\n")[0], maxsplit=1)[0].strip() or None if hashes else None
    )


_END_MARK = re.compile(r"<\||</?[a-z]")


def _stated(text: str) -> str | None:
    phrases = list(_PHRASE.finditer(text))
    if not phrases:
        return None
    rest = text[phrases[-1].end() :][:_MAX_STATED_CHARS]
    if display := _DISPLAY.match(rest):
        return display[1].strip() or None
    line = _END.split(rest.partition("\n")[0], maxsplit=1)[0]
    return _SUBJECT.sub("", line, count=1).strip(" *_`") or None


def _bold(text: str) -> str | None:
    found = [
        bold for bold in _BOLD.findall(text.rstrip().rpartition("\n")[2]) if _VALUE.search(bold)
    ]
    return found[-1].strip() if found else None
