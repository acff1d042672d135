"""The report in a headless Chromium, on a desktop and on a phone."""

import pytest

from sphere_ray.report.page import write_report
from tests.browser import WIDTHS, chromium, visit
from tests.report.made import write_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    paths = [write_run(folder / name, seed=seed) for name, seed in (("one", 0), ("two", 5))]
    return {"one": write_report(paths[:1]), "several": write_report(paths)}


OPEN_ALL = "document.querySelectorAll('details').forEach(each => each.open = true)"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["one", "several"])
def test_a_report_is_fit_to_be_seen(browser, pages, name, width):
    with visit(browser, pages[name], width=width) as seen:
        seen.page.evaluate(OPEN_ALL)
        assert seen.complaints == []
        assert seen.foreign_requests == []
        assert seen.overflowing() == []
        assert seen.faults() == []


def test_a_report_is_legible_in_the_dark(browser, pages):
    with visit(browser, pages["one"], width=390, scheme="dark") as seen:
        seen.page.evaluate(OPEN_ALL)
        background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background != "rgb(255, 255, 255)"
        assert seen.faults() == []


def test_a_report_is_printed_on_white_and_cuts_nothing_off(browser, pages):
    with visit(browser, pages["one"], width=700, scheme="dark", media="print") as seen:
        background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(255, 255, 255)"
        assert not seen.page.locator("nav").first.is_visible()
        assert seen.page.locator("svg").first.is_visible()
        assert seen.overflowing() == []
        assert seen.page.pdf().startswith(b"%PDF")


def test_a_report_is_walked_by_keyboard(browser, pages):
    with visit(browser, pages["one"], width=1400) as seen:
        page = seen.page
        page.keyboard.press("Tab")
        skip = page.locator("a.skip")
        assert page.evaluate("document.activeElement.className") == "skip"
        box = skip.bounding_box()
        assert box is not None
        assert box["x"] >= 0  # it comes into sight with the focus
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        page.keyboard.press("Enter")
        assert page.url.endswith("#main")
        first = page.locator("details summary").first
        first.focus()
        page.keyboard.press("Enter")
        assert page.locator("details").first.get_attribute("open") is not None


def test_plots_are_as_wide_as_a_phone_and_their_text_is_not_shrunk(browser, pages):
    with visit(browser, pages["one"], width=390) as seen:
        sizes = seen.page.evaluate(
            "[...document.querySelectorAll('svg')].map(e => [e.getBoundingClientRect().width,"
            " e.viewBox.baseVal.width])"
        )
        assert sizes
        assert all(shown >= 0.95 * drawn for shown, drawn in sizes)
