"""The built pages: all there, all links lead somewhere, every picture can be read aloud."""

import json
import unicodedata
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pages as page_tools
import pytest
from bs4 import BeautifulSoup
from build_book import toc_pages
from fontTools.ttLib import TTFont

REACHES_OUT = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


@pytest.fixture(scope="module")
def soups(pages: Path) -> dict[Path, BeautifulSoup]:
    return {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in pages.glob("*.html")
    }


def test_every_page_of_the_toc_is_built(pages):
    missing = [name for name in toc_pages() if not (pages / f"{name}.html").is_file()]
    assert not missing


def test_every_source_is_in_the_toc(root):
    sources = {path.stem for kind in ("*.md", "*.ipynb") for path in (root / "book").glob(kind)}
    assert sources == set(toc_pages())


def test_internal_links_and_anchors_lead_somewhere(soups, pages):
    identifiers = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in soups.items()}
    broken = []
    for page, soup in soups.items():
        for tag in soup.find_all(["a", "img", "script", "link"]):
            address = urlsplit(tag.get("href") or tag.get("src") or "")
            if address.scheme or address.netloc or (page.stem in {"search", "genindex"} and not address.path):
                continue
            target = (page.parent / unquote(address.path)).resolve() if address.path else page
            if not target.exists():
                broken.append(f"{page.name}: {tag.get('href') or tag.get('src')}")
            elif address.fragment and target in identifiers and address.fragment not in identifiers[target]:
                broken.append(f"{page.name}: no #{address.fragment} in {target.name}")
    assert not broken


def test_pages_ask_for_nothing_outside(soups):
    outside = {
        f"{page.name}: {tag[attribute]}"
        for page, soup in soups.items()
        for name, attribute in REACHES_OUT.items()
        for tag in soup.find_all(name)
        if urlsplit(tag.get(attribute, "")).netloc and "canonical" not in tag.get("rel", [])
    }
    assert not outside


def test_pictures_have_a_description(soups):
    mute = []
    for page, soup in soups.items():
        for image in soup.find_all("img"):
            text, source = image.get("alt"), urlsplit(image["src"]).path
            if not text or text in source or text.lower().endswith((".png", ".svg", ".jpg")):
                mute.append(f"{page.name}: <img src={source[-60:]!r} alt={text!r}>")
        for svg in soup.select(".capsnb-figure svg"):
            if svg.get("role") != "img" or len(svg.get("aria-label", "")) < 20:
                mute.append(f"{page.name}: figure described as {svg.get('aria-label')!r}")
    assert not mute


def test_the_font_has_every_sign_of_the_formulas(soups, pages):
    """The build takes its other signs out, and a formula shows more than it spells: roots, and slanted letters."""
    (font,) = (pages / "_static").glob("*-math.woff2")
    signs = {chr(code) for code in TTFont(font).getBestCmap()}
    slanted = {
        unicodedata.normalize("NFKC", sign) for sign in signs if "ITALIC" in unicodedata.name(sign, "")
    } | {"h"}
    formulas = [formula for soup in soups.values() for formula in soup.find_all("math")]
    assert len(formulas) > 500 and any(formula.find("msqrt") for formula in formulas)
    for formula in formulas:
        leaves = [leaf.get_text() for leaf in formula.find_all(["mi", "mn", "mo", "mtext"])]
        spelt = set("".join(leaves)) - set(" \N{NO-BREAK SPACE}\N{FUNCTION APPLICATION}")
        alone = {leaf for leaf in leaves if len(leaf) == 1 and leaf.isascii() and leaf.isalpha()}
        assert spelt <= signs and alone <= slanted and (not formula.find("msqrt") or "√" in signs), (
            formula.annotation.string
        )


def test_formulas_stand_still_without_scripts(soups):
    for page, soup in soups.items():
        assert not soup.find_all("script", src=lambda source: source and "mathjax" in source.lower()), (
            page.name
        )
        for formula in soup.select(".math"):
            assert formula.find("math") and formula.annotation["encoding"] == "application/x-tex", page.name


def test_what_was_measured_is_of_these_pages(root):
    measured = json.loads((root / "results" / "pages.json").read_text())["pages"]
    assert set(measured) == set(toc_pages()), "run: python tools/pages.py"


def test_addresses_outside_are_safe_ones(pages):
    for address in page_tools.links(pages):
        assert urlsplit(address).scheme == "https" and "localhost" not in address, address


def test_a_link_to_the_book_shows_its_card(soups, pages):
    for page, soup in soups.items():
        if page.stem in toc_pages():
            card = soup.find("meta", property="og:image")["content"]
            assert (pages / urlsplit(card).path.partition("/capsnb/")[2]).is_file(), page.name


def test_no_identifier_is_used_twice(soups):
    """Several inline SVGs share one page: identifiers inside them must not meet."""
    for page, soup in soups.items():
        used = [tag["id"] for tag in soup.select("svg [id]")]
        assert len(used) == len(set(used)), page.name
