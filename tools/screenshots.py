"""Photograph built pages in light, dark and on a narrow phone: python tools/screenshots.py OUT [page ...]."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, Route, sync_playwright

HTML = Path(__file__).resolve().parent.parent / "_build" / "html"
LOOKS = {"light": ("light", 1280, 900), "dark": ("dark", 1280, 900), "360px": ("light", 360, 740)}
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--allow-file-access-from-files",
]


def find_browser() -> str | None:
    """Return the path of a Chromium-like browser, or None; CAPSNB_CHROMIUM names one outright."""
    named = os.environ.get("CAPSNB_CHROMIUM")
    places = [named] if named else ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    mac = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
    return next(filter(None, map(shutil.which, [*places, mac])), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start the browser and stop it again."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()


class Tab:
    """A tab of the browser, with a context of its own, that has nothing but the book's own files in reach.

    `errors`, `outside` and `asked` are of the page that was opened last: its console errors, the addresses outside the
    book that it asked for in vain, and all addresses that it asked for.
    """

    def __init__(self, chromium: Browser) -> None:
        self.context = chromium.new_context()
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.asked: set[str] = set()
        self.page.route("**/*", self._gate)
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *problem: object) -> None:
        self.context.close()

    def open(self, url: str, look: str) -> Page:
        """Load a page as if nobody had been here before; return it once its fonts are there."""
        if self.page.url != "about:blank":
            self.page.evaluate("localStorage.clear()")
        for record in (self.errors, self.outside, self.asked):
            record.clear()
        self.page.emulate_media(reduced_motion="null")
        self.look(look)
        self.page.goto(url, wait_until="load")
        self.page.evaluate("document.fonts.ready.then(() => null)")
        return self.page

    def look(self, look: str) -> None:
        """Give the page that is open another look, without loading it again."""
        scheme, width, height = LOOKS[look]
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(color_scheme=scheme)

    def _gate(self, route: Route) -> None:
        self.asked.add(route.request.url)
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()


def main() -> None:
    """Write OUT/<page>-<look>.png for each page and look."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("pages", nargs="*", help="page names without .html (default: all)")
    parser.add_argument("--html", type=Path, default=HTML, help="folder of the built book")
    parser.add_argument("--looks", nargs="+", choices=LOOKS, default=list(LOOKS))
    parser.add_argument("--top", action="store_true", help="only what is seen without scrolling")
    arguments = parser.parse_args()
    skipped = {"genindex", "search"}
    pages = arguments.pages or sorted(p.stem for p in arguments.html.glob("*.html") if p.stem not in skipped)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with browser() as chromium, Tab(chromium) as tab:
        for name in pages:
            for look in arguments.looks:
                page = tab.open((arguments.html / f"{name}.html").as_uri(), look)
                target = arguments.out / f"{name}-{look}.png"
                page.screenshot(path=target, full_page=not arguments.top)
                wide = page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth")
                print(target, f"{wide:+d} px wider than the screen" * (wide > 1), *tab.errors, *tab.outside)


if __name__ == "__main__":
    main()
