"""A person audits 20 pairs by keyboard; the next pairing makes exactly what was said."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sphere_ray import storage
from sphere_ray.records import PreferencePair
from sphere_ray.reporting.audit_summary import audit_summary
from sphere_ray.reward.judgements import Standing
from sphere_ray.rollout import pipeline
from sphere_ray.rollout.audits import load_audit, read_audit
from sphere_ray.runs.directory import Run
from sphere_ray.schema import from_table
from tests.audit.made_run import made_run, rollout
from tests.audit.serving import served
from tests.browser import WIDTHS, chromium, visit

pytestmark = pytest.mark.browser

KEYS = "aaraa1araa2aaaraaaaa"
"""What is pressed at each of 20 pairs: accept, reject, chosen is wrong, rejected is right."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(
        tmp_path_factory.mktemp("browsed") / "made", [rollout(number) for number in range(30)]
    )


@pytest.fixture(scope="module")
def address(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = tmp_path_factory.mktemp("seen") / "audit.jsonl"
    with served(run.path, "--user", "ann", "--file", str(file)) as found:
        yield found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "path",
    ["/", "/i/0/problems", "/i/0/pairs", f"/i/0/problem/{4:032x}", "/i/0/queue?order=margin", "/x"],
)
def test_pages_are_fit_to_be_seen(browser: Any, address: str, path: str, width: int) -> None:
    with visit(browser, address + path, width=width) as seen:
        seen.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        missing = path == "/x"  # a browser complains about a page that is not there
        assert seen.complaints == [] or missing
        assert seen.foreign_requests == []
        assert seen.overflowing() == []
        assert seen.faults() == []
        if not missing:
            assert seen.page.locator("main h1").count() == 1


def test_twenty_pairs_by_keyboard_change_what_the_next_pairing_makes(
    browser: Any, tmp_path: Path
) -> None:
    run = made_run(tmp_path / "made", [rollout(number) for number in range(30)])
    before = pairs_in(f"{run.path}/iter-000/pairs")
    with (
        served(run.path, "--user", "ann") as address,
        visit(browser, f"{address}/i/0/queue?order=random", width=1400) as seen,
    ):
        page, pressed = seen.page, dict[str, str]()
        for number, key in enumerate(KEYS):
            pair_id = page.url.partition("/pair/")[2].partition("?")[0]
            pressed[pair_id] = key
            if number == 2:  # a comment goes with the decision; its letters decide nothing
                page.keyboard.press("c")
                page.keyboard.type("a rash guess")
                page.keyboard.press("Escape")
            with page.expect_navigation():
                page.keyboard.press(key)
            assert f"{number + 1} of {len(before)} decided" in page.content()
        # The last one was a mistake: it is taken back and rejected.
        with page.expect_navigation():
            page.keyboard.press("u")
        assert page.url.partition("/pair/")[2].partition("?")[0] == pair_id
        assert f"19 of {len(before)} decided" in page.content()
        with page.expect_navigation():
            page.keyboard.press("r")
        pressed[pair_id] = "r"
        # Keys can be turned off, for those who speak or read with other keys.
        page.locator("#help summary").click()
        page.locator("#use-keys").uncheck()
        page.keyboard.press("a")
        page.reload()
        page.keyboard.press("a")
        assert f"20 of {len(before)} decided" in page.content()
        assert seen.complaints == []
        assert seen.foreign_requests == []
    check_pairs(run, before, pressed, tmp_path / "again")


def test_chains_of_a_problem_are_judged_by_keyboard(browser: Any, tmp_path: Path) -> None:
    run = made_run(tmp_path / "made", [rollout(number) for number in range(3)])
    with (
        served(run.path) as address,
        visit(browser, f"{address}/i/0/problem/{1:032x}", width=1400) as seen,
    ):
        page = seen.page
        page.keyboard.press("e")
        assert page.locator("details.siblings[open]").count() == 2
        page.keyboard.press("j")
        page.keyboard.press("j")  # Sol_min, which the grader called wrong
        for key, expected in (
            ("w", ["correct"]),
            ("y", ["correct"]),
            ("u", ["correct"]),
            ("u", []),
        ):
            with page.expect_navigation():
                page.keyboard.press(key)
            standing = Standing(read_audit(run.file("audit.jsonl"))).lines.values()
            assert [line.decision for line in standing] == expected
            assert page.locator("text=person: correct").count() == len(expected)
            page.keyboard.press("j")
            page.keyboard.press("j")
        assert {
            line.chain_id.rpartition(":")[2] for line in read_audit(run.file("audit.jsonl"))
        } == {"min"}
        assert seen.complaints == []


def check_pairs(
    run: Run, before: list[PreferencePair], pressed: dict[str, str], output: Path
) -> None:
    """Pair the same rollouts by the audit."""
    file = run.file("audit.jsonl")
    assert len(pressed) == len(KEYS)
    lines = read_audit(file)
    assert [line.comment for line in lines if line.comment] == ["a rash guess"]
    assert {line.who for line in lines} == {"ann"}
    counts = pipeline.pair(
        run.file("iter-000/rollouts"), str(output), run.settings.method, (), load_audit(file)
    )
    after = {p.pair_id: p for p in pairs_in(str(output))}
    known = {p.pair_id: p for p in before}
    gone = {pair_id for pair_id, key in pressed.items() if key != "a"}
    # One problem gives one pair here, and each has one right and one wrong solution.
    assert after == {pair_id: p for pair_id, p in known.items() if pair_id not in gone}
    keys = list(pressed.values())
    assert counts.dropped.get("audit_rejected", 0) == keys.count("r")
    assert storage.read_json(f"{output}/audit.json") == {
        "accepted": keys.count("a"),
        "rejected": keys.count("r"),
        "corrected": keys.count("1") + keys.count("2"),
    }
    found = audit_summary(lines)
    assert found is not None
    sides = 2 * keys.count("a")
    assert (found["grader"]["agreed"], found["grader"]["n"]) == (sides, sides + 2)
    json.dumps(found, allow_nan=False)


def pairs_in(folder: str) -> list[PreferencePair]:
    return [row for table in storage.tables(folder) for row in from_table(table, PreferencePair)]
