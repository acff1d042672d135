"""Steps of a solution: which step is plausible, and which one ends a chain."""

import re
from itertools import accumulate

from sphere_ray.records import Candidate, StopReason

_BOX = "\\boxed{"
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# After the words comes a number, a formula or "x =", or nothing but a name, a choice in brackets,
# a truth value or a word in bold. "The answer is the sum of ..." and "the answer is clear" go on.
_ANSWER_LINE = re.compile(
    r"^\s*####\s*\S"
    r"|(?:\b(?:the|my|our|final|correct)\s+answer\s+is\b|^\W*(?:final\s+)?answer[*_\s]*:)"
    r"(?:[^\w\\]*(?:\d|\\|\w\s*=)"
    r"|[^\w:]*(?:(?-i:[A-Z][\w'-]*(?:\s+[A-Z][\w'-]*){0,2})|yes|no|true|false)[^\w:]*$"
    r"|\W*(?:\(\w\)|\*\*\w+\.?\*\*)[^\w:]*$)",
    re.IGNORECASE,
)


def is_plausible(candidate: Candidate) -> bool:
    """Whether a proposed step may be taken: it ended by itself and is not empty."""
    return candidate.stop_reason is not StopReason.LENGTH and bool(candidate.text.strip())


def is_final(candidate: Candidate) -> bool:
    """Whether a chain ends with this step: end-of-sequence, or a complete final answer.

    Complete means a closed box, or an answer (`#### x`, "the answer is x", "Answer: x") as the
    last line. A step that was cut states nothing.
    """
    if candidate.stop_reason is StopReason.LENGTH:
        return False
    return candidate.stop_reason is StopReason.END or _states_answer(candidate.text)


def _states_answer(text: str) -> bool:
    last_line = text.rstrip().rpartition("\n")[2]
    return bool(_ANSWER_LINE.search(last_line)) or _has_closed_box(text)


def _has_closed_box(text: str) -> bool:
    start = text.rfind(_BOX)
    if start < 0:
        return False
    # Escaped braces (sets) match as `\.` and leave the depth alone.
    brackets = (match[0] for match in _BRACE.finditer(text, start + len(_BOX)))
    depths = accumulate(({"{": 1, "}": -1}.get(b, 0) for b in brackets), initial=1)
    return 0 in depths
