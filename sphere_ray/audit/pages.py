"""The pages of `sphere audit`: they read the run and the journal, and change nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode
from zlib import crc32

import jinja2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from sphere_ray.audit.index import STAGES, VERDICTS, Index
from sphere_ray.audit.journal import Journal
from sphere_ray.audit.library import (
    ORDERS,
    Library,
    find_pairs,
    find_problems,
    index_of,
    is_decided,
    next_in,
    pair_number,
    pair_of,
    questions,
    queue_of,
    rollout_of,
)
from sphere_ray.audit.views import REASONS, marked_shared, view_of, why
from sphere_ray.reporting.audit_summary import audit_summary
from sphere_ray.reward.judgements import AuditLine

_TEMPLATES = Path(__file__).parent / "templates"
_YEAR_S = 365 * 86400


class Pages:
    """Handlers of requests; each returns a whole page or leads to another one."""

    def __init__(self, library: Library, journal: Journal, user: str, token: str) -> None:
        """Load the templates; `token` goes into every form."""
        self._library, self._journal, self._user = library, journal, user
        self._place = f"place-{crc32(library.run.path.encode()):08x}"
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_TEMPLATES),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._templates.globals.update(
            run=library.run, user=user, journal=journal, token=token, stages=STAGES, reasons=REASONS
        )
        self._templates.filters.update(words=_words, bucket=_bucket, query=_query)

    def trouble(self, _request: Request, error: Exception) -> Response:
        """A page that says what went wrong."""
        code, text = 500, str(error)
        if isinstance(error, HTTPException):
            code, text = error.status_code, error.detail
        title = "Not found" if code == 404 else "This did not work"
        page = self._templates.get_template("trouble.html")
        html = page.render(title=title, text=text, iteration=None, iterations=[], last=None)
        return HTMLResponse(html, code)

    def overview(self, request: Request) -> Response:
        """What there is, how far the audit is, and who agrees with it."""
        iterations = self._library.iterations
        iteration = request.path_params.get("iteration", iterations[-1] if iterations else 0)
        index = index_of(self._library, iteration) if iterations else None
        decided = self._journal.standing.seen
        queues = []
        if index is not None:
            done = is_decided(index, decided)
            for stage in ("", *STAGES):
                numbers = self._library.order(index, "random", stage)
                if len(numbers):
                    count = int(done[numbers].sum())
                    queues.append({"stage": stage, "total": len(numbers), "decided": count})
        return self._render(
            "overview.html",
            iteration,
            index=index,
            queues=queues,
            orders=ORDERS,
            place=request.cookies.get(self._place),
            audit=audit_summary(self._journal.lines),
        )

    def resume(self, request: Request) -> Response:
        """Lead to the pair that was last looked at in a queue, or to the next one behind it."""
        found = dict(parse_qsl(request.cookies.get(self._place, "")))
        order, stage = queue_of(found)
        iteration, pair_id = found.get("i", ""), found.get("at", "")
        index = self._library.index(int(iteration)) if iteration.isdecimal() else None
        if index is None or not order or index.pair(pair_id) is None:
            return RedirectResponse("/", 303)
        where = {"order": order, "stage": stage}
        if pair_id in self._journal.standing.seen:
            target = f"queue?{urlencode({**where, 'after': pair_id})}"
        else:
            target = f"pair/{pair_id}?{urlencode(where)}"
        return RedirectResponse(f"/i/{iteration}/{target}", 303)

    def problems(self, request: Request) -> Response:
        """The list of problems."""
        iteration, query = request.path_params["iteration"], dict(request.query_params)
        index = index_of(self._library, iteration)
        page = find_problems(index, query)
        known = index.problems
        shown = questions(index, page.numbers.tolist())
        rows = [
            {
                "id": known.ids[number].as_py(),
                "family": known.families[number].as_py(),
                "stages": [
                    name for bit, name in enumerate(STAGES) if known.stages[number] >> bit & 1
                ],
                "verdicts": [
                    name for bit, name in enumerate(VERDICTS) if known.verdicts[number] >> bit & 1
                ],
                "inverted": bool(known.inverted[number]),
                "failed": bool(known.failed[number]),
                "pairs": int(known.pairs[number]),
                "margin": float(known.margin[number]),
                **shown[number],
            }
            for number in page.numbers.tolist()
        ]
        return self._render(
            "problems.html",
            iteration,
            index=index,
            rows=rows,
            page=page,
            query=query,
            verdicts=VERDICTS,
        )

    def pairs(self, request: Request) -> Response:
        """The list of pairs, kept or dropped."""
        iteration, query = request.path_params["iteration"], dict(request.query_params)
        index, standing = index_of(self._library, iteration), self._journal.standing
        page = find_pairs(index, query, standing.seen)
        known, numbers = index.pairs, page.numbers.tolist()
        owners = known.problems[page.numbers].tolist()
        shown = questions(index, owners)
        rows = []
        for number, owner in zip(numbers, owners, strict=True):
            pair_id = known.ids[number].as_py()
            line = standing.lines.get(pair_id)
            rows.append(
                {
                    "id": pair_id,
                    "stage": known.stages[number].as_py(),
                    "margin": float(known.margin[number]),
                    "reason": known.reasons[number].as_py(),
                    "decision": line.decision
                    if line is not None
                    else ("verdict" if pair_id in standing.seen else None),
                    **shown[owner],
                }
            )
        return self._render("pairs.html", iteration, index=index, rows=rows, page=page, query=query)

    def problem(self, request: Request) -> Response:
        """A problem with every chain and every candidate step."""
        iteration, problem_id = (request.path_params[n] for n in ("iteration", "problem_id"))
        index = index_of(self._library, iteration)
        number = index.problem(problem_id)
        if number is None:
            raise HTTPException(404, "This iteration has no such problem.")
        rollout, standing = rollout_of(index, number), self._journal.standing
        views = [view_of(rollout, each.chain_id, standing.verdicts) for each in rollout.chains]
        pairs = [
            {
                "id": index.pairs.ids[each].as_py(),
                "stage": index.pairs.stages[each].as_py(),
                "reason": index.pairs.reasons[each].as_py(),
                "margin": float(index.pairs.margin[each]),
            }
            for each in index.pairs_of(number).tolist()
        ]
        return self._render(
            "problem.html",
            iteration,
            problem=rollout.problem,
            rollout=rollout,
            views=views,
            pairs=pairs,
            lineage=self._lineage(index),
            remarks=self._remarks(lambda line: line.problem_id == problem_id),
        )

    def pair(self, request: Request) -> Response:
        """A pair: both sides, why it was made or dropped, and where it came from."""
        iteration, pair_id = (request.path_params[n] for n in ("iteration", "pair_id"))
        index, standing = index_of(self._library, iteration), self._journal.standing
        number = pair_number(index, pair_id)
        row = pair_of(index, number)
        verdicts = standing.verdicts
        chosen = view_of(row.rollout, row.chosen_chain, verdicts)
        rejected = view_of(row.rollout, row.rejected_chain, verdicts)
        if chosen is not None and rejected is not None and not row.is_step:
            chosen, rejected = marked_shared(chosen, rejected)
        order, stage = queue_of(request.query_params)
        progress = None
        if order:
            numbers = self._library.order(index, order, stage)
            done = is_decided(index, standing.seen)[numbers]
            progress = {"decided": int(done.sum()), "total": len(numbers)}
        response = self._render(
            "pair.html",
            iteration,
            row=row,
            sides=[("chosen", chosen), ("rejected", rejected)],
            margin=float(index.pairs.margin[number]),
            why="" if row.is_step else why(row.reason, chosen, rejected, _preference(index)),
            line=standing.lines.get(pair_id),
            order=order,
            stage=stage,
            orders=ORDERS,
            progress=progress,
            lineage=self._lineage(index),
            remarks=self._remarks(lambda line: line.pair_id == pair_id),
        )
        if order:
            place = urlencode({"order": order, "stage": stage, "at": pair_id, "i": iteration})
            response.set_cookie(
                self._place, place, max_age=_YEAR_S, httponly=True, samesite="strict"
            )
        return response

    def queue(self, request: Request) -> Response:
        """Lead to the next pair of a queue that nobody decided."""
        iteration, query = request.path_params["iteration"], request.query_params
        index = index_of(self._library, iteration)
        order, stage = queue_of(query)
        numbers = self._library.order(index, order or "random", stage)
        decided = is_decided(index, self._journal.standing.seen)
        after = index.pair(query["after"]) if query.get("after") else None
        found = next_in(numbers, decided, after)
        if found is None:
            return self._render(
                "done.html", iteration, total=len(numbers), order=order, stage=stage
            )
        pair_id = index.pairs.ids[found].as_py()
        where = urlencode({"order": order or "random", "stage": stage})
        return RedirectResponse(f"/i/{iteration}/pair/{pair_id}?{where}", 303)

    def _lineage(self, index: Index) -> dict[str, Any]:
        """The steps behind a page, and what they were made from."""
        made = index.rollouts.manifest
        return {
            "rollouts": index.rollouts,
            "pairs": index.step,
            "policy": made.inputs.get("policy"),
            "seed": made.identity.get("seed"),
            "versions": made.versions,
        }

    def _remarks(self, about: Callable[[AuditLine], bool]) -> list[AuditLine]:
        return [line for line in self._journal.lines if about(line)]

    def _render(self, name: str, iteration: int, **values: Any) -> HTMLResponse:
        iterations = self._library.iterations
        last = self._journal.standing.last_of(self._user)
        page = self._templates.get_template(name)
        return HTMLResponse(
            page.render(iteration=iteration, iterations=iterations, last=last, **values)
        )


def _preference(index: Index) -> str:
    """By what a rejected side was chosen among the wrong solutions."""
    made = index.step.manifest.identity if index.step is not None else {}
    return str(made.get("pairs.rejected", ""))


def _words(name: str) -> str:
    """A name of the code in words."""
    return name.replace("_", " ")


def _bucket(reward: float) -> int:
    """The class of colour of a reward in [0, 1], from 0 to 10."""
    return round(10 * min(max(reward, 0.0), 1.0))


def _query(values: Mapping[str, str], **changes: Any) -> str:
    """A query string with some values changed."""
    return urlencode({name: value for name, value in {**values, **changes}.items() if value})
