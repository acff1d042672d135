"""The pages over a made run: what they show, what they refuse, and what a form writes."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sphere_ray.audit.app import create_app
from sphere_ray.audit.journal import Journal
from sphere_ray.audit.library import Library
from sphere_ray.records import Branch, PreferencePair, Rollout, StageName
from sphere_ray.rollout import pipeline
from sphere_ray.rollout.audits import load_audit
from sphere_ray.runs.directory import Run
from tests.audit.made_run import HOSTILE, chain, made_run, rollout

PROBLEMS = 60


def rollouts() -> list[Rollout]:
    made = [rollout(number) for number in range(PROBLEMS)]
    made[7] = replace(made[7], route=("self_generation:inversion",))
    made[8] = replace(made[8], chains=(), error="RequestError: too long", route=())
    same = made[9].chains[0].text.removesuffix("#### 1") + "#### 2"
    close = chain(made[9].problem.problem_id, Branch.MIN, "x", right=False)
    steps = (made[9].chains[0].steps[0], close.steps[1])
    made[9] = replace(made[9], chains=(made[9].chains[0], replace(close, steps=steps)))
    assert made[9].chains[1].text == same  # differs by a character: dropped as too similar
    small = chain(made[10].problem.problem_id, Branch.MIN, "by the small one", right=False)
    small = replace(small, stage=StageName.DIVERSITY, chain_id=f"{small.chain_id}:small")
    made[10] = replace(made[10], chains=(made[10].chains[0], small))
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("pages") / "made", rollouts())


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(str(tmp_path / "audit.jsonl"))


@pytest.fixture
def client(run: Run, journal: Journal) -> Iterator[TestClient]:
    app = create_app(Library(run), journal, "ann")
    with TestClient(app, base_url="http://127.0.0.1:8421", follow_redirects=False) as client:
        yield client


@pytest.fixture(scope="module")
def pairs(run: Run) -> list[PreferencePair]:
    step = run.step("pairs", 0)
    assert step is not None
    return list(step.rows(PreferencePair))


def token_in(html: str) -> str:
    found = re.search(r'name="token" value="([^"]+)"', html)
    assert found is not None
    return found[1]


def decide(client: TestClient, page: str, **fields: Any) -> Any:
    token = token_in(client.get(page).text)
    return client.post("/decide", data={"token": token, "iteration": 0, **fields})


def links(html: str, kind: str) -> list[str]:
    return re.findall(rf'href="/i/0/{kind}/([^"?]+)" data-item', html)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/i/0",
        "/i/0/problems",
        "/i/0/pairs",
        f"/i/0/problem/{1:032x}",
        "/i/0/pairs?kind=dropped",
    ],
)
def test_what_models_wrote_is_text(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    assert "<img" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    if "problem/" in path:
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text


def test_a_pair_shows_both_sides_their_siblings_and_where_it_came_from(
    client: TestClient, pairs: list[PreferencePair]
) -> None:
    html = client.get(f"/i/0/pair/{pairs[0].pair_id}").text
    for shown in ("so many as", "none but", "A sibling of", "0.10", "file:made.jsonl"):
        assert shown in html
    for shown in (pairs[0].chosen_chain, "policy-1", "grader: correct", "grader: wrong"):
        assert shown in html
    assert "Of the wrong solutions" in html


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_other_names_of_this_machine_are_refused(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 400
    assert client.get("/", headers={"host": "localhost:8421"}).status_code == 200


@pytest.mark.parametrize("token", [None, "", "x" * 43, "\u20ac"])
def test_a_form_of_another_site_writes_nothing(
    client: TestClient, journal: Journal, pairs: list[PreferencePair], token: str | None
) -> None:
    form = {"iteration": 0, "pair_id": pairs[0].pair_id, "decision": "accept"}
    form |= {} if token is None else {"token": token}
    for path in ("/decide", "/undo"):
        answer = client.post(path, data=form)
        assert answer.status_code == 403
        assert "Open it anew" in answer.text
    journal.refresh()
    assert journal.lines == []


def test_a_form_has_a_length(client: TestClient) -> None:
    assert client.post("/decide", data={"comment": "x" * 70_000}).status_code == 413
    assert client.get("/decide").status_code == 405


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/i/9", 404),
        ("/i/0/pair/nothing", 404),
        ("/i/0/problem/nothing", 404),
        ("/i/0/problems?page=99999999999999999999", 200),
        ("/i/0/problems?page=-1&stage=nonsense&verdict=x&reason=y&family=z", 200),
        ("/i/0/pairs?page=x&reason=nonsense", 200),
        ("/i/0/queue?order=nonsense&stage=nonsense&after=nothing", 303),
        ("/nowhere", 404),
    ],
)
def test_addresses_that_mean_nothing_are_answered(client: TestClient, path: str, code: int) -> None:
    assert client.get(path).status_code == code


def test_decisions_that_mean_nothing_are_refused(
    client: TestClient, journal: Journal, pairs: list[PreferencePair]
) -> None:
    page, pair_id = "/i/0/problems", pairs[0].pair_id
    page = f"/i/0/pair/{pair_id}"
    assert decide(client, page, pair_id="nothing", decision="accept").status_code == 404
    assert decide(client, page, pair_id=pair_id, decision="love").status_code == 400
    problem = pairs[0].problem_id
    for chain_id in ("nothing", ""):
        form = {"problem_id": problem, "chain_id": chain_id, "decision": "wrong"}
        assert decide(client, page, **form).status_code == 404
    dropped = links(client.get("/i/0/pairs?kind=dropped").text, "pair")[0]
    assert decide(client, page, pair_id=dropped, decision="accept").status_code == 400
    journal.refresh()
    assert journal.lines == []


def test_filters_of_problems(client: TestClient) -> None:
    def found(query: str) -> set[int]:
        numbers: set[int] = set()
        page = 1
        while ids := links(client.get(f"/i/0/problems?{query}&page={page}").text, "problem"):
            numbers |= {int(each, 16) for each in ids}
            page += 1
            if len(ids) < 50:
                break
        return numbers

    everything = set(range(PROBLEMS))
    assert found("") == everything
    assert found("inversions=1") == {7}
    assert found("stage=diversity") == {10}
    assert found("reason=too_similar") == {9}
    assert found("family=trains") == {n for n in everything if n % 2}
    assert found("verdict=correct") == everything - {8}
    assert found("verdict=timeout") == set()
    assert found("q=ARE+23+boxes") == {23}
    assert found("q=%3Cscript") == everything
    assert found(f"q={11:032x}") == {11}
    assert found("family=trains&q=are+2") == {n for n in everything if n % 2 and str(n)[0] == "2"}


def test_lists_go_by_the_smallest_margin(client: TestClient, pairs: list[PreferencePair]) -> None:
    margins = {p.pair_id: (p.chosen_reward or 0) - (p.rejected_reward or 0) for p in pairs}
    shown = [margins[each] for each in links(client.get("/i/0/pairs?sort=margin").text, "pair")]
    assert shown == sorted(margins.values())[:50]
    by_problem = {p.problem_id: margins[p.pair_id] for p in pairs}
    listed = links(client.get("/i/0/problems?sort=margin").text, "problem")
    assert [by_problem[each] for each in listed] == sorted(by_problem.values())[:50]


@pytest.mark.parametrize("order", ["random", "margin"])
def test_a_queue_shows_every_pair_once_and_ends(
    client: TestClient, journal: Journal, pairs: list[PreferencePair], order: str
) -> None:
    page = client.get(f"/i/0/queue?order={order}&stage=diversity").headers["location"]
    assert page.partition("?")[0].endswith(
        next(p.pair_id for p in pairs if p.stage is StageName.DIVERSITY)
    )
    where, seen = f"/i/0/queue?order={order}", []
    while (answer := client.get(where)).status_code == 303:
        page = answer.headers["location"]
        pair_id = re.findall(r"/pair/(\w+)", page)[0]
        seen.append(pair_id)
        answer = decide(client, page, pair_id=pair_id, decision="accept", order=order)
        where = answer.headers["location"]
    assert "All decided" in answer.text
    assert sorted(seen) == sorted(p.pair_id for p in pairs)
    margins = {p.pair_id: (p.chosen_reward or 0) - (p.rejected_reward or 0) for p in pairs}
    shown = [margins[each] for each in seen]
    assert (shown == sorted(shown)) == (order == "margin")
    journal.refresh()
    assert [line.pair_id for line in journal.lines] == seen


def test_a_line_says_who_what_and_what_machines_said(
    client: TestClient, journal: Journal, pairs: list[PreferencePair]
) -> None:
    pair = pairs[0]
    page = f"/i/0/pair/{pair.pair_id}"
    answer = decide(client, page, pair_id=pair.pair_id, decision="reject", comment=f" {HOSTILE} ")
    assert answer.headers["location"] == page
    assert "<script>alert" not in client.get(page).text
    journal.refresh()
    (line,) = journal.lines
    assert (line.who, line.decision, line.comment) == ("ann", "reject", HOSTILE)
    assert (line.problem_id, line.pair_id, line.iteration) == (pair.problem_id, pair.pair_id, 0)
    chosen, rejected = line.sides
    assert (chosen.chain_id, chosen.verdict, chosen.reward) == (
        pair.chosen_chain,
        "correct",
        pair.chosen_reward,
    )
    assert (rejected.chain_id, rejected.verdict) == (pair.rejected_chain, "wrong")


def test_verdicts_are_turned_confirmed_and_taken_back(
    client: TestClient, journal: Journal, pairs: list[PreferencePair]
) -> None:
    pair = pairs[0]
    page, problem = f"/i/0/pair/{pair.pair_id}", f"/i/0/problem/{pair.problem_id}"
    about = {"problem_id": pair.problem_id, "chain_id": pair.chosen_chain}
    decide(client, page, pair_id=pair.pair_id, decision="chosen wrong")
    decide(client, page, pair_id=pair.pair_id, decision="rejected correct")
    decide(client, problem, **about, decision="wrong")
    decide(client, problem, **about, decision="correct")
    decide(client, problem, **about, decision="comment")  # says nothing, so it is not written
    journal.refresh()
    assert [line.decision for line in journal.lines] == ["wrong", "correct", "wrong", "correct"]
    assert sorted(journal.standing.verdicts.values()) == [True, True]
    assert "person: correct" in client.get(problem).text
    for expected in ([False, True], [False, True], [False]):
        token = token_in(client.get(page).text)
        client.post("/undo", data={"token": token})
        journal.refresh()
        assert sorted(journal.standing.verdicts.values()) == expected
    client.post("/undo", data={"token": token})
    assert client.post("/undo", data={"token": token}).status_code == 404


def test_the_overview_counts_and_the_place_is_remembered(
    client: TestClient, pairs: list[PreferencePair]
) -> None:
    assert "Nobody decided anything yet" in client.get("/").text
    page = client.get("/i/0/queue?order=margin").headers["location"]
    pair_id = re.findall(r"/pair/(\w+)", page)[0]
    decide(client, page, pair_id=pair_id, decision="accept", order="margin")
    html = client.get("/").text
    assert f"1 of {len(pairs)} decided" in html
    assert "2 of 2" in html  # both verdicts of an accepted pair
    onward = client.get("/resume").headers["location"]
    assert f"after={pair_id}" in onward
    assert client.get(client.get(onward).headers["location"]).status_code == 200
    name = next(iter(client.cookies))
    client.cookies.clear()
    client.cookies.set(name, "i=x&at=nonsense&order=margin")
    assert client.get("/resume").headers["location"] == "/"


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    run = made_run(tmp_path / "made", rollouts()[:3])
    (Path(run.path) / "steps.json").unlink()
    app = create_app(Library(Run.open(run.path)), Journal(str(tmp_path / "a.jsonl")), "ann")
    with TestClient(app, base_url="http://localhost") as client:
        assert "no finished rollouts yet" in client.get("/").text


def opened(run: Run, journal: Journal) -> TestClient:
    app = create_app(Library(run), journal, "ann")
    return TestClient(app, base_url="http://localhost", follow_redirects=False)


def test_a_run_without_pairs_has_pages_too(tmp_path: Path, journal: Journal) -> None:
    with opened(made_run(tmp_path / "made", rollouts()[8:10]), journal) as client:
        for path in ("/", "/i/0/problems", "/i/0/pairs", f"/i/0/problem/{8:032x}"):
            assert client.get(path).status_code == 200
        assert "This queue has no pairs" in client.get("/i/0/queue?order=margin").text


def test_step_level_pairs_are_judged_as_steps(tmp_path: Path, journal: Journal) -> None:
    run = made_run(tmp_path / "made", [rollout(3)], level="step", step_margin=0.05)
    step = run.step("pairs", 0)
    assert step is not None
    pair = next(step.rows(PreferencePair))
    page = f"/i/0/pair/{pair.pair_id}"
    with opened(run, journal) as client:
        html = client.get(page).text
        assert "Chosen step" in html
        assert "is wrong" not in html
        assert (
            decide(client, page, pair_id=pair.pair_id, decision="chosen wrong").status_code == 400
        )
        assert decide(client, page, pair_id=pair.pair_id, decision="reject").status_code == 303
    journal.refresh()
    (line,) = journal.lines
    assert [side.verdict for side in line.sides] == [None, None]
    assert line.sides[0].text_id != line.sides[1].text_id
    counts = pipeline.pair(
        run.file("iter-000/rollouts"),
        str(tmp_path / "again"),
        run.settings.method,
        (),
        load_audit(journal.path),
    )
    assert counts.dropped["audit_rejected"] == 1
