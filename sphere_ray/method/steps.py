"""Steps of a solution: where text splits, which step is plausible, and which one ends a chain."""

import re
from itertools import accumulate

from sphere_ray.config.method import SearchSettings
from sphere_ray.records import Candidate, StopReason

_BOX = "\\boxed{"
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# After the words comes a number, a formula or "x =": "the answer is the sum of ..." goes on.
_ANSWER_LINE = re.compile(
    r"^\s*####\s*\S"
    r"|(?:\b(?:the|my|our|final)\s+answer\s+is\b|^\W*(?:final\s+)?answer\s*:)"
    r"[^\w\\]*(?:\d|\\|\w\s*=)",
    re.IGNORECASE,
)


def split_steps(text: str, boundary: str) -> tuple[str, ...]:
    """Split after each boundary, which stays at the end of its step; "" has no steps."""
    *inner, last = text.split(boundary)
    steps = tuple(step + boundary for step in inner)
    return (*steps, last) if last else steps


def join_steps(steps: tuple[str, ...]) -> str:
    """Return the text of the steps; the inverse of `split_steps`."""
    return "".join(steps)


def is_plausible(candidate: Candidate, settings: SearchSettings) -> bool:
    """Whether a proposed step may be taken: ended by itself, not empty, within the step length."""
    return (
        candidate.stop_reason is not StopReason.LENGTH
        and bool(candidate.text.strip())
        and len(candidate.token_ids) <= settings.max_step_tokens
    )


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
