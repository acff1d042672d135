"""`sphere report`: one page, or one sentence."""

from pathlib import Path

from tests.report.made import write_run


def test_a_page_is_written_where_one_looks_for_it(sphere, tmp_path):
    runs = [write_run(tmp_path / name, seed=seed) for name, seed in (("one", 0), ("two", 5))]
    code, out, err = sphere("report", runs[0])
    assert (code, out.strip(), err) == (0, f"{runs[0]}/report.html", "")
    assert Path(out.strip()).read_text("utf-8").startswith("<!DOCTYPE html>")
    page = tmp_path / "pages" / "both.html"
    code, out, err = sphere("report", *runs, "--output", str(page))
    assert (code, out.strip(), err) == (0, str(page), "")
    assert "2</data> runs side by side" in page.read_text("utf-8")


def test_what_is_no_run_is_one_sentence(sphere, tmp_path):
    code, out, err = sphere("report", str(tmp_path))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "not a run directory" in err
    assert len(err.splitlines()) == 1
