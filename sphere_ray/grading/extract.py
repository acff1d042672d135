r"""Finds the final answer that a response states, and the gold answer in a solution.

An answer counts only where it is declared as one. The last number of a text is no answer: a policy
that is rewarded for mentioning numbers learns to mention numbers.
"""

import re
from collections.abc import Iterable

from sphere_ray.grading.normalise import balance_braces

_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_JOIN = re.compile(r"[\s$]*(?:,|;|,?[\s$]*\b(?:and|or)\b)[\s$]*")
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)$", re.MULTILINE)
_PHRASE = re.compile(
    r"\banswer\b(?:[ \t](?:to|of|for)\b[^\n.:]{0,80}?)?"
    r"[*_ \t]{0,8}(?:is\b|was\b|are\b|:|=|\n)[*_:\s]{0,16}(?=[^\n])",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(
    r"\.(?=\s|\*|$)|[ ,]+(?:because|since|which|where|so|therefore)\b|[;,]\s+(?:and )?I\b"
)
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_VALUE = re.compile(r"[0-9\\]")


def extract_answer(response: str) -> str | None:
    r"""Return the stated final answer, or None.

    In order of priority: the last closed `\boxed{}` (neighbours joined by a comma, "and" or "or"
    count as one list), the last `#### x` line, the last "answer is x" or "answer: x", the last
    **x** in Markdown bold that holds a value.
    """
    return (
        _last_boxed(response)
        or _last(_HASHES.findall(response))
        or _stated(response)
        or _last(bold for bold in _BOLD.findall(response) if _VALUE.search(bold))
    )


def extract_gold(text: str) -> str:
    r"""Return the gold answer in the answer field of a data set.

    It is the `#### x` of GSM8K, else the last `\boxed{}` of a MATH solution, else the text itself.
    Braces are balanced, since some sets keep only a fragment of the original box.
    """
    found = _last(_HASHES.findall(text)) if "####" in text else None
    if found is None and "boxed" in text:
        found = _last_boxed(text)
    return balance_braces((found or text).strip())


def _last_boxed(text: str) -> str | None:
    spans = _boxed_spans(text) if "\\boxed" in text or "\\fbox" in text else []
    if not spans:
        return None
    begin, inner, end = spans[-1]
    answers = [text[inner:end].strip()]
    for left, left_inner, left_end in reversed(spans[:-1]):
        if not _JOIN.fullmatch(text, left_end + 1, begin):
            break
        answers.insert(0, text[left_inner:left_end].strip())
        begin = left
    return ", ".join(dict.fromkeys(answers))


def _boxed_spans(text: str) -> list[tuple[int, int, int]]:
    """Return (begin, inner begin, inner end) of every closed, non-empty, outermost box."""
    spans: list[tuple[int, int, int]] = []
    open_braces: list[tuple[int, int] | None] = []
    for match in _BOX_TOKEN.finditer(text):
        token = match.group()
        if token == "{":
            open_braces.append(None)
        elif token == "}":
            box = open_braces.pop() if open_braces else None
            if box and text[box[1] : match.start()].strip():
                while spans and spans[-1][0] > box[0]:
                    spans.pop()
                spans.append((*box, match.start()))
        elif token.endswith("{") and len(token) > 2:
            open_braces.append(match.span())
    return spans


def _last(found: Iterable[str]) -> str | None:
    *_, last = "", *found
    return last.strip() or None


def _stated(text: str) -> str | None:
    phrases = list(_PHRASE.finditer(text))
    if not phrases:
        return None
    line = text[phrases[-1].end() :].partition("\n")[0]
    return _SENTENCE_END.split(line, maxsplit=1)[0].strip(" *_`") or None
