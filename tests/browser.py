"""A headless Chromium for tests of pages: what a visit shows, asks for and complains about.

How it is used in a test file:

    pytestmark = pytest.mark.browser

    @pytest.fixture(scope="module")
    def browser():
        with chromium() as found:
            yield found

    @pytest.mark.parametrize("width", WIDTHS)
    def test_the_page_is_fit_to_be_seen(browser, width):
        with visit(browser, "http://127.0.0.1:8000/problems", width=width) as seen:
            seen.page.keyboard.press("a")          # Playwright's page: click, fill, locator, ...
            assert seen.complaints == []           # console errors and warnings, uncaught errors
            assert seen.foreign_requests == []     # URLs that are not of the page's own origin
            assert seen.overflowing() == []        # elements wider than the screen
            assert seen.faults() == []             # axe-core: serious and critical findings

`visit` also takes `scheme="dark"`, `media="print"` and `height`; `seen.page.screenshot(path=...)`
makes a picture. Playwright's own asyncio loop lives as long as `browser`, which is one test file,
so tests of one file are all `def`, none `async def`.

Chromium is Debian's `chromium-headless-shell`, which `.ci/setup dev` installs with apt where it can
(as root), or any other Chromium on the PATH, or Playwright's own (`playwright install chromium`).
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

WIDTHS = (1400, 390)
"""A desktop window and a phone, in CSS pixels."""
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_NONE = (
    "no Chromium is installed, so no page was looked at: apt-get install chromium-headless-shell, "
    "or playwright install chromium"
)
_SERIOUS = ("serious", "critical")
_TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = (e) => e && (["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  const found = [...document.body.querySelectorAll("*")]
    .filter((e) => e.getBoundingClientRect().right > width + 1 && !scrolls(e.parentElement))
    .map((e) => e.outerHTML.slice(0, 120));
  if (document.documentElement.scrollWidth > width + 1) found.unshift("(the page scrolls)");
  return found;
}"""


@dataclass
class Visit:
    """An open page, and what it did so far."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def foreign_requests(self) -> list[str]:
        """What was asked of anything but the page's own origin; a file may ask for nothing."""
        own = urlsplit(self.page.url)
        return [
            url
            for url in self.requests
            if url != self.page.url
            and not url.startswith("data:")
            and (own.scheme == "file" or urlsplit(url)[:2] != own[:2])
        ]

    def overflowing(self) -> list[str]:
        """Elements that reach beyond the right edge, unless a part around them scrolls."""
        found: list[str] = self.page.evaluate(_TOO_WIDE)
        return found

    def faults(self) -> list[str]:
        """What axe-core finds to be serious or critical: rule, help, and the elements."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{each['id']}: {each['help']}: {[node['target'] for node in each['nodes'][:3]]}"
            for each in found
            if each["impact"] in _SERIOUS
        ]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser; where there is none the test is skipped, and says what to install."""
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = next(filter(None, map(shutil.which, _NAMES)), None)
        if found is None and not Path(own).exists():
            pytest.skip(_NONE)
        # Chromium's sandbox refuses to run as root, and containers give it too little /dev/shm.
        arguments = ["--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(
            executable_path=found or own, args=arguments, chromium_sandbox=os.geteuid() != 0
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(
    browser: Browser,
    url: str,
    *,
    width: int,
    height: int = 900,
    scheme: str = "light",
    media: str = "screen",
) -> Iterator[Visit]:
    """Open a page (a URL or the path of a file) in a window of its own."""
    size = {"width": width, "height": height}
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    try:
        page = context.new_page()
        page.emulate_media(media=media, color_scheme=scheme)
        seen = Visit(page)
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("console", lambda message: _note(seen, message.type, message.text))
        page.goto(url if "://" in url else Path(url).absolute().as_uri(), wait_until="networkidle")
        yield seen
    finally:
        context.close()


def _note(seen: Visit, kind: str, text: str) -> None:
    if kind in ("error", "warning"):
        seen.complaints.append(f"{kind}: {text}")
