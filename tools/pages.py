"""Measure the built pages and list where they lead: python tools/pages.py [--links].

Weights, the largest contentful paint and the layout shift of each page, opened from the disk with nothing else in
reach, go into results/pages.json; `--links` prints every address outside the book and the pages that name it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup
from build_book import ROOT, toc_pages
from playwright.sync_api import Browser
from screenshots import HTML, Tab, browser

from capsnb.files import write_atomically
from capsnb.profiling import hardware, versions
from capsnb.tables import markdown

RESULTS = ROOT / "results" / "pages.json"
# Answers when the page has painted, at the earliest 300 ms after it was loaded: timers may move things as well.
PAINTS = """async () => {
  const kinds = { "largest-contentful-paint": 0, "layout-shift": 0 };
  const painted = new Promise((done) => {
    new PerformanceObserver((list) => {
      kinds["largest-contentful-paint"] = list.getEntries().at(-1).startTime;
      done();
    }).observe({ type: "largest-contentful-paint", buffered: true });
  });
  new PerformanceObserver((list) => { for (const one of list.getEntries()) kinds["layout-shift"] += one.value; })
    .observe({ type: "layout-shift", buffered: true });
  await painted;
  const loaded = performance.getEntriesByType("navigation")[0].loadEventEnd;
  await new Promise((done) => setTimeout(done, loaded + 300 - performance.now()));
  return kinds;
}"""


def weights(addresses: set[str]) -> tuple[int, int]:
    """Return the bytes of the book's files at these addresses, as they are and as a server would compress them."""
    files = [unquote(urlsplit(one).path) for one in addresses if urlsplit(one).scheme == "file"]
    contents = [Path(file).read_bytes() for file in set(files)]
    return sum(map(len, contents)), sum(len(gzip.compress(content)) for content in contents)


def measure(chromium: Browser, path: Path) -> dict[str, float]:
    """Open a page once: megabytes that it asked for, as they are and compressed, its paint in seconds, its shift."""
    with Tab(chromium) as tab:  # a new one each time: nothing is in its caches
        paints = tab.open(path.as_uri(), "light").evaluate(PAINTS)
    plain, compressed = weights(tab.asked)
    return {
        "mb": plain / 1e6,
        "mb_compressed": compressed / 1e6,
        "paint_s": paints["largest-contentful-paint"] / 1e3,
        "shift": paints["layout-shift"],
    }


def report(html: Path, rounds: int) -> dict[str, Any]:
    """Measure every page several times and return the medians."""
    pages: dict[str, dict[str, float]] = {}
    with browser() as chromium:
        for name in toc_pages():
            runs = [measure(chromium, html / f"{name}.html") for _ in range(rounds)]
            pages[name] = {key: round(statistics.median(run[key] for run in runs), 4) for key in runs[0]}
    return {
        "about": "Written by tools/pages.py: the built pages, opened from the disk.",
        "command": f"python tools/pages.py --rounds {rounds}",
        "rounds": rounds,
        "hardware": hardware(),
        "versions": versions(),
        "pages": pages,
    }


def table(pages: dict[str, dict[str, float]]) -> str:
    """Return the measured pages as a table."""
    head = ("page", "MB", "MB compressed", "largest paint, s", "layout shift")
    rows = [
        (
            name,
            f"{one['mb']:.2f}",
            f"{one['mb_compressed']:.2f}",
            f"{one['paint_s']:.2f}",
            f"{one['shift']:.3f}",
        )
        for name, one in pages.items()
    ]
    return markdown([head, *rows])


def links(html: Path) -> dict[str, list[str]]:
    """Return every address outside the book, with the pages that name it."""
    found: dict[str, list[str]] = {}
    for name in toc_pages():
        soup = BeautifulSoup((html / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        for address in sorted({tag["href"] for tag in soup.find_all("a", href=True)}):
            if urlsplit(address).netloc:
                found.setdefault(address, []).append(name)
    return dict(sorted(found.items()))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--html", type=Path, default=HTML, help="folder of the built book")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--links", action="store_true", help="list the addresses outside, measure nothing")
    arguments = parser.parse_args()
    if arguments.links:
        for address, names in links(arguments.html).items():
            print(address, *names)
        return
    measured = report(arguments.html, arguments.rounds)
    print(table(measured["pages"]))
    write_atomically(RESULTS, json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
