"""The lines of audit.jsonl: what people decided about pairs and solutions, and what counts of it.

Pure: text comes in. `rollout/audits.py` reads the file, and `sphere_ray/audit/` writes it.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from sphere_ray.config.base import Settings
from sphere_ray.errors import ConfigError
from sphere_ray.method.audit import Audit, Sides
from sphere_ray.records import StageName, Verdict


class Judged(Settings):
    """A solution as a person saw it: the grader's verdict, and the scorer's reward.

    `text_id` is that of `method.audit`. A side of a step-level pair is no solution: it has no
    verdict, and both sides have one `chain_id`.
    """

    chain_id: str
    text_id: str
    verdict: Verdict | None = None
    reward: float | None = None


class AuditLine(Settings):
    """One line of audit.jsonl: who decided what, and when.

    A line with a `chain_id` is about that solution: `correct` or `wrong` is what a person holds its
    answer to be, and `pair_id` is the pair in which it was seen, if any. A line without is about
    the pair: `accept` or `reject`. A `comment` decides nothing, and `undo` takes back the last
    decision of the same person on the same item. `sides` are the chosen and the rejected solution
    of the pair, or the solution that the line is about; `stage` is that of the pair or the chain.
    """

    when: AwareDatetime
    who: str = Field(min_length=1)
    iteration: int = Field(ge=0)
    problem_id: str
    pair_id: str | None = None
    chain_id: str | None = None
    stage: StageName
    decision: Literal["accept", "reject", "correct", "wrong", "comment", "undo"]
    comment: str = ""
    sides: tuple[Judged, ...] = Field(min_length=1, max_length=2)

    @model_validator(mode="after")
    def _is_about_one_item(self) -> "AuditLine":
        if self.chain_id is None and (self.pair_id is None or len(self.sides) < 2):
            raise ValueError("a line without chain_id needs a pair_id and two sides")
        if self.chain_id is not None and self.sides[0].chain_id != self.chain_id:
            raise ValueError("the first side must be the one of chain_id")
        others = ("correct", "wrong") if self.chain_id is None else ("accept", "reject")
        if self.decision in others:
            about = "pair" if self.chain_id is None else "chain"
            raise ValueError(f"{self.decision} is no decision about a {about}")
        return self

    @property
    def item(self) -> str:
        """What the line is about; the last decision on an item counts."""
        return self.sides[0].text_id if self.chain_id is not None else self.pair_id or ""


def audit_lines(text: str, name: str) -> list[AuditLine]:
    """Read the content of the file `name`; blank lines are skipped.

    Raises:
        ConfigError: a line is broken; the message has its number.
    """
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            found += [AuditLine.model_validate_json(line)] if line.strip() else []
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = "".join(f"{part}: " for part in first["loc"])
            trouble = first["msg"].removeprefix("Value error, ")
            raise ConfigError(
                f"{name}, line {number}: {where}{trouble}; correct or remove this line"
            ) from None
    return found


class Standing:
    """The decisions that count, after every later one and every undo."""

    def __init__(self, lines: Iterable[AuditLine] = ()) -> None:
        """Take the lines in their order."""
        self._left: list[AuditLine] = []
        self.comments: list[AuditLine] = []
        for line in lines:
            self._take(line)

    def _take(self, line: AuditLine) -> None:
        if line.comment.strip():
            self.comments.append(line)
        if line.decision == "undo":
            mark = (line.item, line.who)
            own = [at for at, each in enumerate(self._left) if (each.item, each.who) == mark]
            if own:
                del self._left[own[-1]]
        elif line.decision != "comment":
            self._left.append(line)

    @cached_property
    def lines(self) -> dict[str, AuditLine]:
        """The line that counts, by item."""
        return {line.item: line for line in self._left}

    @cached_property
    def seen(self) -> frozenset[str]:
        """The pairs that were decided: themselves, or the verdict of a side seen in them."""
        return frozenset(line.pair_id for line in self.lines.values() if line.pair_id is not None)

    @cached_property
    def verdicts(self) -> dict[str, bool]:
        """Whether a person holds a solution to be right, by `text_id`, where one said so."""
        said = (line for line in self.lines.values() if line.chain_id is not None)
        return {line.item: line.decision == "correct" for line in said}

    def held(self, line: AuditLine) -> list[bool | None]:
        """Whether each side of a line is held to be right; None where nobody said.

        What was said of a solution itself counts. Otherwise, who accepts a pair holds its chosen
        side to be right and its rejected side to be wrong.
        """
        implied = (True, False) if line.decision == "accept" else (None, None)
        both = zip(line.sides, implied, strict=False)
        return [self.verdicts.get(side.text_id, each) for side, each in both]

    def last_of(self, who: str) -> AuditLine | None:
        """The latest decision of a person that was not taken back."""
        return next((line for line in reversed(self._left) if line.who == who), None)


def audit_of(lines: Iterable[AuditLine]) -> Audit:
    """The decisions that count among the lines of a file, as pairing honours them."""
    accepted: dict[str, dict[str, Sides]] = {}
    verdicts: dict[str, dict[str, bool]] = {}
    rejected = set[str]()
    for item, line in Standing(lines).lines.items():
        match line.decision:
            case "accept":
                chosen, other = (side.chain_id for side in line.sides)
                accepted.setdefault(line.problem_id, {})[item] = Sides(line.stage, chosen, other)
            case "reject":
                rejected.add(item)
            case decision:
                verdicts.setdefault(line.problem_id, {})[item] = decision == "correct"
    return Audit(rejected=frozenset(rejected), accepted=accepted, verdicts=verdicts)
