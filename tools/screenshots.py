"""Photograph built pages in light, dark and on a narrow phone: python tools/screenshots.py OUT [page ...]."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Iterator
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


def open_page(
    chromium: Browser, url: str, look: str, note: Callable[[str], None] = lambda url: None
) -> tuple[Page, list[str], list[str]]:
    """Open a page with nothing but the book's own files in reach; `note` is told every address that it asks for.

    Returns:
        The page, once its fonts are there; its console errors; the addresses outside the book that it
        asked for in vain.
    """
    scheme, width, height = LOOKS[look]
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page, errors, outside = context.new_page(), [], []

    def gate(route: Route) -> None:
        note(route.request.url)
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    page.route("**/*", gate)
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url, wait_until="load")
    page.evaluate("document.fonts.ready.then(() => null)")
    return page, errors, outside


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
    with browser() as chromium:
        for name in pages:
            for look in arguments.looks:
                page, errors, outside = open_page(chromium, (arguments.html / f"{name}.html").as_uri(), look)
                target = arguments.out / f"{name}-{look}.png"
                page.screenshot(path=target, full_page=not arguments.top)
                wide = page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth")
                print(target, f"{wide:+d} px wider than the screen" * (wide > 1), *errors, *outside)
                page.context.close()


if __name__ == "__main__":
    main()
