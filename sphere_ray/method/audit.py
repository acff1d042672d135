"""What people decided about pairs and solutions, as pairing and labels honour it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from statistics import fmean
from typing import Any, NamedTuple, TypedDict

from sphere_ray.records import Candidate, Chain, Rollout, StageName, Verdict

REJECTED = "audit_rejected"
"""The reason for which a pair that a person rejected is dropped."""
AUDITED = "audit.json"
"""The counts of `AuditedPairs`, beside the pairs that honour an audit."""
UNDECIDED = frozenset({Verdict.UNGRADABLE, Verdict.TIMEOUT})
"""Verdicts that say neither right nor wrong."""


class AuditedPairs(TypedDict):
    """What an audit did to the pairs of an iteration.

    `accepted` pairs of people are among the kept ones, those that people `rejected` were dropped,
    and the verdicts of so many solutions in the rollouts were `corrected`.
    """

    accepted: int
    rejected: int
    corrected: int


class Sides(NamedTuple):
    """The stage of a pair, and the ids of its two solutions."""

    stage: StageName
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The decisions that count.

    `rejected` are ids of pairs, `accepted` has the sides of pairs by problem and pair id, and
    `verdicts` say by problem and `text_id` whether a solution is right.
    """

    rejected: frozenset[str] = frozenset()
    accepted: Mapping[str, Mapping[str, Sides]] = field(default_factory=dict)
    verdicts: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)

    @property
    def accepted_ids(self) -> list[str]:
        """The ids of all accepted pairs, in order."""
        return sorted(pair_id for pairs in self.accepted.values() for pair_id in pairs)

    def inputs(self) -> dict[str, str]:
        """The decisions by a hash, as an input of the step of pairs; none without a decision."""
        found = [sorted(self.rejected), self.accepted_ids, self.verdicts]
        return {"audit": _hash(found)} if any(found) else {}

    def label_inputs(self) -> dict[str, str]:
        """The same for a step that makes labels, which knows no pairs."""
        return {"audit": _hash(self.verdicts)} if self.verdicts else {}


NOTHING = Audit()
"""Nobody decided anything."""


def text_id(problem_id: str, text: str) -> str:
    """Identify a solution by its problem and its text, in whatever chain or iteration it is."""
    return _hash([problem_id, text.rstrip()])


def _hash(content: Any) -> str:
    return blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def corrected(rollout: Rollout, audit: Audit) -> tuple[Rollout, int]:
    """The rollout with people's verdicts in the place of the grader's; how many texts that changed.

    A verdict belongs to a text, so it holds for every chain and completion that says the same. The
    value of a step counts its completions anew. A wrong answer that the grader called truncated or
    missing keeps that verdict.
    """
    verdicts = audit.verdicts.get(rollout.problem.problem_id)
    if not verdicts:
        return rollout, 0
    corrections = _Corrections(rollout.problem.problem_id, verdicts)
    chains = tuple(map(corrections.chain, rollout.chains))
    return replace(rollout, chains=chains), len(corrections.changed)


class _Corrections:
    """Applies the verdicts of one problem; `changed` are the texts that got another verdict."""

    def __init__(self, problem_id: str, verdicts: Mapping[str, bool]) -> None:
        self.changed: set[str] = set()
        self._problem_id = problem_id
        self._verdicts = verdicts

    def chain(self, chain: Chain) -> Chain:
        steps, text = [], ""
        for step in chain.steps:
            candidates = tuple(self._candidate(text, each) for each in step.candidates)
            steps.append(replace(step, candidates=candidates))
            text += step.candidate.text
        return replace(chain, steps=tuple(steps), verdict=self._verdict(text, chain.verdict))

    def _candidate(self, before: str, candidate: Candidate) -> Candidate:
        completions = tuple(
            replace(each, verdict=self._verdict(before + candidate.text + each.text, each.verdict))
            for each in candidate.completions or ()
        )
        if completions == (candidate.completions or ()):
            return candidate
        decided = [each.verdict for each in completions if each.verdict is not Verdict.TIMEOUT]
        values = tuple(float(verdict is Verdict.CORRECT) for verdict in decided)
        changes: dict[str, Any] = {"completions": completions, "values": values}
        # Where a trained reward model scored the search, the values are behind the audit.
        changes["reward" if candidate.audit is None else "audit"] = fmean(values)
        return replace(candidate, **changes)

    def _verdict(self, text: str, graded: Verdict) -> Verdict:
        mark = text_id(self._problem_id, text)
        right = self._verdicts.get(mark)
        if right is None or (right == (graded is Verdict.CORRECT) and graded not in UNDECIDED):
            return graded
        self.changed.add(mark)
        return Verdict.CORRECT if right else Verdict.WRONG
