"""What a form of `sphere audit` says becomes a line of the journal."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from sphere_ray.audit.index import Index
from sphere_ray.audit.journal import Journal
from sphere_ray.audit.library import (
    Library,
    PairRow,
    index_of,
    pair_number,
    pair_of,
    queue_of,
    rollout_of,
)
from sphere_ray.audit.views import step_sides, view_of
from sphere_ray.records import Rollout
from sphere_ray.reward.judgements import AuditLine, Judged

Form: TypeAlias = Mapping[str, str]
_SIDES = ("chosen", "rejected")
_VERDICTS = ("correct", "wrong")
_MAX_COMMENT_CHARS = 4000


class Decisions:
    """Notes what one person decides. What a line says of a pair or a chain is read from the run."""

    def __init__(self, library: Library, journal: Journal, user: str) -> None:
        """Write to a journal in the name of `user`."""
        self._library, self._journal, self._user = library, journal, user

    def decide(self, form: Form) -> Response:
        """Note a decision, and go on."""
        iteration, decision = _number(form.get("iteration")), form.get("decision", "")
        index = index_of(self._library, iteration)
        if pair_id := form.get("pair_id"):
            row = pair_of(index, pair_number(index, pair_id))
            line = self._about_pair(row, decision, iteration)
        else:
            line = self._about_chain(index, form, decision, iteration)
        comment = form.get("comment", "").strip()[:_MAX_COMMENT_CHARS]
        if comment or line["decision"] != "comment":
            self._append(line | {"comment": comment})
        order, stage = queue_of(form)
        if order and pair_id and line["decision"] != "comment":
            where = urlencode({"order": order, "stage": stage, "after": pair_id})
            return RedirectResponse(f"/i/{iteration}/queue?{where}", 303)
        return RedirectResponse(_page_of(line, order, stage), 303)

    def undo(self, form: Form) -> Response:
        """Take back the last decision of this person, and show what it was about."""
        self._journal.refresh()
        last = self._journal.standing.last_of(self._user)
        if last is None:
            raise HTTPException(404, "You decided nothing that could be undone.")
        line = last.model_dump() | {"decision": "undo", "comment": ""}
        self._append(line)
        return RedirectResponse(_page_of(line, *queue_of(form)), 303)

    def _append(self, line: Mapping[str, Any]) -> None:
        mark = {"when": datetime.now(UTC), "who": self._user}
        try:
            self._journal.append(AuditLine.model_validate({**line, **mark}))
        except OSError as error:
            raise HTTPException(
                500, f"Nothing was noted: {self._journal.path} cannot be written ({error})."
            ) from None

    def _about_pair(self, row: PairRow, decision: str, iteration: int) -> dict[str, Any]:
        """A line about a pair, or about the verdict of one of its sides (`chosen wrong`)."""
        about = {
            "iteration": iteration,
            "problem_id": row.problem_id,
            "pair_id": row.pair_id,
            "stage": row.stage,
        }
        sides: tuple[Judged, ...]
        if row.is_step and row.pair is not None:
            sides = step_sides(row.pair)
        else:
            sides = tuple(
                self._judged(row.rollout, name) for name in (row.chosen_chain, row.rejected_chain)
            )
        name, _, held = decision.partition(" ")
        if name in _SIDES and held in _VERDICTS and not row.is_step:
            side = sides[_SIDES.index(name)]
            return about | {"chain_id": side.chain_id, "decision": held, "sides": (side,)}
        allowed = ("accept", "reject", "comment") if row.reason is None else ("comment",)
        if decision not in allowed:
            raise HTTPException(400, "This is no decision about such a pair.")
        return about | {"decision": decision, "sides": sides}

    def _about_chain(
        self, index: Index, form: Form, decision: str, iteration: int
    ) -> dict[str, Any]:
        """A line about the verdict of a chain."""
        number = index.problem(form.get("problem_id", ""))
        if number is None or decision not in (*_VERDICTS, "comment"):
            raise HTTPException(400, "This is no decision about a chain of this iteration.")
        rollout = rollout_of(index, number)
        side = self._judged(rollout, form.get("chain_id", ""))
        chain = next(each for each in rollout.chains if side.chain_id.startswith(each.chain_id))
        return {
            "iteration": iteration,
            "problem_id": rollout.problem.problem_id,
            "chain_id": side.chain_id,
            "stage": chain.stage,
            "decision": decision,
            "sides": (side,),
        }

    def _judged(self, rollout: Rollout, solution_id: str) -> Judged:
        view = view_of(rollout, solution_id, {})
        if view is None:
            raise HTTPException(404, "These rollouts have no such chain.")
        return view.judged


def _page_of(line: Mapping[str, Any], order: str, stage: str) -> str:
    """The page of what a line is about."""
    if not line.get("pair_id"):
        return f"/i/{line['iteration']}/problem/{line['problem_id']}#{line['chain_id']}"
    where = f"?{urlencode({'order': order, 'stage': stage})}" if order else ""
    return f"/i/{line['iteration']}/pair/{line['pair_id']}{where}"


def _number(text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdecimal() and len(text) < 9):
        raise HTTPException(400, "The form names no iteration.")
    return int(text)
