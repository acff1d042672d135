"""Every number of a report is summary.json's or the data's, and the page is whole by itself."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from sphere_ray import storage
from sphere_ray.errors import RunDirectoryError, UserError
from sphere_ray.report.page import write_report
from tests.report.made import FAMILIES, HOSTILE, write_run
from tests.report.reading import Page, resolve
from tests.report.recount import data_of, rows

# Words that hold a digit, and are no result.
CONSTANT = re.compile(
    r"pass@1|95%|1,000|stage-1|sphere_ray \d+\.\d+\.\d+|^step$|\d\.\d to \d\.\d|^\d+$"
)
ROUNDING = {"count": 0, "whole": 0.5, "percent": 0.051, "points": 0.051, "decimal": 0.0051}
ROUNDING |= {"signed": 0.0051, "fine": 0.00051, "tenth": 0.051}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs, the page about the first, and the page about both."""
    folder = tmp_path_factory.mktemp("runs")
    paths = [write_run(folder / name, seed=seed) for name, seed in (("one", 0), ("two", 5))]
    pages = [Path(write_report(paths[:1])), Path(write_report(paths))]
    return [Path(path) for path in paths], [page.read_text("utf-8") for page in pages]


@pytest.fixture(scope="module", params=[0, 1], ids=["one", "several"])
def shown(made, request):
    """A page, read; the facts it may cite; its text."""
    paths, pages = made
    paths = paths[: request.param + 1]
    summaries = [json.loads((path / "summary.json").read_text()) for path in paths]
    runs = [
        {"summary": summary, "data": data_of(path)}
        for summary, path in zip(summaries, paths, strict=True)
    ]
    page = Page.of(pages[request.param])
    return page, {"runs": runs}, pages[request.param]


def checked(page, part):
    found = [each for each in page.cited if part in each.pointer]
    assert found
    return found


def test_every_number_is_that_of_the_summary_or_of_the_files(shown):
    page, facts, _ = shown
    numbers = [each for each in page.cited if each.style and "/examples/" not in each.pointer]
    assert len(numbers) > 500
    for each in numbers:
        if each.pointer.startswith("/together/"):
            continue
        value = resolve(facts, each.pointer)
        if value is None:
            assert (each.value, each.text) == ("", "\u2013")
            continue
        assert float(each.value) == pytest.approx(value), each.pointer
        assert_shown(each.text, float(each.value), each.style)


def assert_shown(text, value, style):
    """The text says the value, as people write it."""
    plain = text.replace("\u2212", "-").replace(",", "")
    if style == "clock":
        parts = [int(part) for part in plain.split(":")]
        assert sum(part * 60**place for place, part in enumerate(reversed(parts))) == round(value)
    elif style in ("p", "p ="):
        assert (plain == "< 0.0001") == (value < 0.0001)
        assert plain[0] == "<" or float(plain.lstrip("= ")) == pytest.approx(value, rel=0.06)
    elif style == "rate":
        assert float(plain) == pytest.approx(value, rel=0.06)
    else:
        factor = 100 if style in ("percent", "points") else 1
        assert abs(float(plain) - factor * value) <= ROUNDING[style]
        assert plain[0] in "+-" or style not in ("points", "signed")


def test_what_several_runs_have_together_is_over_their_tests(shown):
    page, facts, _ = shown
    gains = [run["summary"]["test"]["difference"] for run in facts["runs"]]
    said = {c.pointer: float(c.value) for c in page.cited if c.pointer.startswith("/together/")}
    if len(gains) == 1:
        assert said == {}
        return
    mean = sum(gains) / 2
    assert said["/together/mean"] == pytest.approx(mean)
    assert (said["/together/lowest"], said["/together/highest"]) == (min(gains), max(gains))
    deviation = sum((gain - mean) ** 2 for gain in gains) ** 0.5
    assert said["/together/deviation"] == pytest.approx(deviation)


def test_texts_are_those_of_the_files_too(shown):
    page, facts, _ = shown
    texts = [each for each in page.cited if each.style is None]
    elsewhere = ("/examples/", "/settings/", "/differing")
    for each in texts:
        if not any(part in each.pointer for part in elsewhere):
            value = resolve(facts, each.pointer)
            assert each.text == ("\u2013" if value is None else str(value)), each.pointer


def test_nothing_but_cited_text_holds_a_number(shown):
    page, facts, _ = shown
    names = {name for run in facts["runs"] for name in run["summary"]["test"]["base"]["by_family"]}
    names |= {"gsm8k", "aime24"}
    loose = [text for text in page.said if text not in names and not text.startswith("run")]
    found = [text for text in loose if re.search(r"\d", CONSTANT.sub("", text))]
    assert [
        text for text in found if not re.fullmatch(r"validation, iteration \d, \w+", text)
    ] == []


def test_every_figure_that_a_summary_holds_for_people_is_shown(shown):
    """The page may not leave out what the issue lists."""
    page, facts, _ = shown
    said = {each.pointer for each in page.cited}
    for number, run in enumerate(facts["runs"]):
        at, summary = f"/runs/{number}", run["summary"]
        for place, item in enumerate(summary["iterations"]):
            below = f"{at}/summary/iterations/{place}"
            wanted = [f"pairs/dropped/{reason}" for reason in item["pairs"]["dropped"]]
            wanted += ["rollout/wrong_to_correct", "rollout/correct_to_wrong"]
            wanted += ["rollout/prm_inversions", "reward/distinct_candidates"]
            wanted += [f"rollout/by_stage/{stage}/tokens" for stage in item["rollout"]["by_stage"]]
            wanted += [f"candidates/{index}/reason" for index in range(len(item["candidates"]))]
            wanted += ["evaluation/before/ci95/0", "training/update_survival"]
            assert {f"{below}/{name}" for name in wanted} <= said
            routes = resolve(run, f"/data/iterations/{place}/routes")
            assert routes
            for each in routes:
                row = f"{each['text']} {each['count']}"
                assert any(re.sub(r"\s+", " ", found).strip() == row for found in page.rows)
        for side in ("base", "final", "difference"):
            assert f"{at}/summary/test/process/{side}/step_validity/value" in said
        for name in ("gsm8k/changes/final/p_value", "aime24/models/final/mean_ci95/1"):
            assert f"{at}/summary/benchmarks/{name}" in said
        audit = ["accepted", "rejected", "verdicts", "comments", "ties"]
        audit += [f"{who}/{of}" for who in ("grader", "scorer") for of in ("n", "agreed", "ci95/0")]
        assert {f"{at}/summary/audit/{name}" for name in audit} <= said
        honoured = f"{at}/summary/iterations/1/pairs/audit"
        assert {f"{honoured}/{name}" for name in ("accepted", "rejected", "corrected")} <= said


def test_examples_are_taken_from_the_files(made, shown):
    page, facts, _ = shown
    texts = {each.pointer: each.text for each in page.cited}
    for number, path in enumerate(made[0][: len(facts["runs"])]):
        at = f"/runs/{number}/data/examples"
        pairs = rows(path / "iter-000" / "pairs")
        sides = [(pair["chosen"], pair["rejected"]) for pair in pairs]
        assert tuple(texts[f"{at}/pair/{s}/text"] for s in ("chosen", "rejected")) in sides
        questions = {row["question"]: row for row in rows(path / "problems" / "test")}
        base, final = (
            {row["problem_id"]: row for row in rows(path / "test" / name)}
            for name in ("base", "iter-000")
        )
        for kind, before, after in (("gained", "wrong", "correct"), ("lost", "correct", "wrong")):
            problem = questions[texts[f"{at}/{kind}/problem/question"]]["problem_id"]
            assert (base[problem]["verdict"], final[problem]["verdict"]) == (before, after)
            assert texts[f"{at}/{kind}/before/text"] == base[problem]["response"]
            assert texts[f"{at}/{kind}/after/text"] == final[problem]["response"]
        rollouts = {r["problem"]["question"]: r for r in rows(path / "iter-000" / "rollouts")}
        repaired = rollouts[texts[f"{at}/repaired/problem/question"]]
        verdicts = {c["stage"]: c["verdict"] for c in repaired["chains"] if c["branch"] == "max"}
        assert (verdicts["self_generation"], verdicts["self_correction"]) == ("wrong", "correct")
        known = {
            (candidate["text"], candidate["reward"])
            for row in rollouts.values()
            for chain in row["chains"]
            for step in chain["steps"]
            for candidate in step["candidates"]
        }
        rewards = [
            each for each in checked(page, f"{at}/pair/") if each.pointer.endswith("/reward")
        ]
        for each in rewards:
            if "/steps/" in each.pointer:
                text = texts[each.pointer.replace("/reward", "/text")]
                assert (text, float(each.value) if each.value else None) in known


def test_the_page_needs_nothing_else(shown):
    page, _, text = shown
    for tag, given in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "form", "img", "base")
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert str(given.get(name) or "#").startswith(("#", "data:")), (tag, given)
        assert not [name for name in given if name.startswith("on")]
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert len(text.encode()) < 2_000_000


def test_text_by_strangers_is_text(shown):
    page, _, text = shown
    assert "<script" not in text
    assert "<b>tips" not in text
    assert any(HOSTILE in each.text for each in page.cited)
    assert any(FAMILIES[1] in said for said in page.said)


def test_people_who_cannot_see_it_can_read_it(shown):
    page, _, text = shown
    assert len(set(page.ids)) == len(page.ids)
    for tag, given in page.tags:
        named = (given.get("aria-labelledby") or "").split()
        assert set(named) <= set(page.ids), (tag, given)
        if tag == "svg":
            assert given["role"] == "img"
            assert len(named) == 2  # a title and a description
        if tag == "th":
            assert given.get("scope") in ("row", "col")
        if tag == "a":
            assert str(given["href"])[1:] in page.ids
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == text.count("<caption>")
    assert tags.count("h1") == tags.count("main") == 1
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_secrets_in_settings_are_hidden(tmp_path):
    splits = ("train", "validation", "test")
    secret = {split: {"source": f"file:https://user:pass@x.org/{split}.jsonl"} for split in splits}
    path = write_run(tmp_path / "run", problems=secret)
    text = Path(write_report([path])).read_text("utf-8")
    assert "x.org" in text
    assert "pass@x" not in text


def test_a_report_of_one_run_is_the_same_each_time(made):
    path = str(made[0][0])
    assert Path(write_report([path])).read_text("utf-8") == made[1][0]


def test_what_cannot_be_reported_is_one_sentence(made, tmp_path):
    path = write_run(tmp_path / "run")
    with pytest.raises(UserError, match="named twice"):
        write_report([path, f"{path}/"])
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirectoryError, match="choose another --output"):
        write_report([path], str(tmp_path / "file" / "page.html"))
    summary = storage.read_json(f"{path}/summary.json")
    del summary["test"]["process"]
    storage.write_json(summary, f"{path}/summary.json")
    with pytest.raises(RunDirectoryError, match="earlier version"):
        write_report([path])
    storage.remove(f"{path}/summary.json")
    with pytest.raises(RunDirectoryError, match=r"no summary\.json yet"):
        write_report([path])
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        write_report([str(tmp_path / "nowhere")])
