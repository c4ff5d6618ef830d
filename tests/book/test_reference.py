"""The reference, the links between it and the chapters, the glossary's links, and the quoted messages."""

import ast
import importlib
import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from build_book import ROOT, toc_pages

import capsnb

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import capsnb_links
import capsnb_reference

CHAPTERS = [name for name in toc_pages() if name[:2].isdigit()]
REFERENCE = [name for name in toc_pages() if name.startswith("reference")]
LISTED = {
    module: page
    for page in REFERENCE
    for module in re.findall(r"automodule:: (\S+)", (ROOT / "book" / f"{page}.md").read_text("utf-8"))
}
# Tools of no chapter's subject; `reference-cli` has the command line, and Triton cannot be imported everywhere.
NO_CHAPTER = {
    f"capsnb.{room}"
    for room in ("files", "values", "compat", "tables", "notebook", "checks", "bench.measurement")
}
NOT_LISTED = {
    *(f"capsnb.cli.{name}" for name in ("options", "training", "measuring", "reproducing", "doctor")),
    *("capsnb._version", "capsnb.__main__", "capsnb.kernels.triton_backend"),
}


@pytest.fixture(scope="module")
def soup(pages: Path):
    return cache(
        lambda name: BeautifulSoup((pages / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    )


def modules() -> set[str]:
    paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "capsnb").rglob("*.py")]
    return {".".join(path.parts) for path in paths if path.name != "__init__"}


def test_every_module_has_its_place():
    assert modules() - set(LISTED) == NOT_LISTED


@pytest.mark.parametrize("name", capsnb.__all__)
def test_every_name_of_the_package_has_an_entry(name, soup):
    thing = getattr(capsnb, name)
    full = getattr(thing, "__qualname__", None)
    module = thing.__module__ if full else thing.__name__
    found = soup(LISTED[module]).find(id=f"{module}.{full}" if full else f"module-{module}")
    assert found is not None
    if full:
        assert found.find_next_sibling("dd").get_text(strip=True), "an entry without a word"


@pytest.mark.parametrize("name", REFERENCE)
def test_no_identifier_meets_another(name, soup):
    counts = Counter(tag["id"] for tag in soup(name).find_all(id=True))
    assert not [identifier for identifier, count in counts.items() if count > 1]


@pytest.mark.parametrize("module", sorted(LISTED))
def test_module_links_the_chapters_that_it_names(module, soup):
    said = importlib.import_module(module).__doc__
    titles = {int(name[:2]): soup(name).h1.find(string=True, recursive=False).strip() for name in CHAPTERS}
    named = {
        int(number)
        for found in capsnb_links.CHAPTERS.finditer(said)
        for number in re.findall(r"\d+", found[2])
    }
    named |= {number for number, title in titles.items() if f"*{title}*" in " ".join(said.split())}
    assert named or module in NO_CHAPTER, "the docstring does not say which chapter teaches or uses it"
    section = soup(LISTED[module]).find(id=f"module-{module}").parent
    linked = {int(link["href"][:2]) for link in section.find_all("a", class_="chapter", recursive=True)}
    assert named <= linked
    for number, title in re.findall(r"chapter (\d+), \*([^*]+)\*", " ".join(said.split())):
        assert titles[int(number)] == title


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_links_the_names_that_it_mentions(name, soup):
    """Also in other words than the extension's: whatever stands as code and is one of the package's own names."""
    article, linked = soup(name).article, set()
    mentioned = set()
    for code in article.select("p code, li code, td code"):
        words = code.get_text().removeprefix("capsnb.").split("(")[0]
        if words not in capsnb.__all__ or code.find_parent("a", href=re.compile("^https?:")):
            continue
        mentioned.add(words)
        if (link := code.find_parent("a")) and link["href"].startswith("reference"):
            linked.add(words)
    assert linked == mentioned


def test_chapters_and_commands_meet(soup):
    """Each export that chapters speak of is reached from one of them, and commands too."""
    targets = {link["href"].split("#")[-1] for name in CHAPTERS for link in soup(name).select("a.api")}
    for name in ("fit", "evaluate", "capsule_loss", "MoCapsNet", "MomentumCapsules", "RoutingCapsules"):
        thing = getattr(capsnb, name)
        assert f"{thing.__module__}.{thing.__qualname__}" in targets
    assert {"capsnb-train", "capsnb-reproduce", "capsnb-bench-depth"} <= targets


def test_command_line_is_complete(soup):
    page = soup("reference-cli")
    _, *below = capsnb_reference.command_line()
    assert len(below) > 10
    for path, command in below:
        section = page.find(id="-".join(path))
        told = section.get_text()
        for option in command.params:
            if option.name != "help" and option.opts[0].startswith("-"):
                assert option.opts[0] in told, path


@pytest.mark.parametrize("name", [*CHAPTERS, "how-to-use", "troubleshooting", "notation", "index"])
def test_terms_are_linked_once_and_in_prose(name, soup):
    article = soup(name).article
    made = article.select("a.term")
    counts = Counter(
        link["href"] for link in article.select('a[href*="glossary.html#term-"]') if link in made
    )
    assert not {href: count for href, count in counts.items() if count > 1}
    by_hand = {link["href"] for link in article.select('a[href*="#term-"]') if link not in made}
    assert not by_hand & set(counts)
    for link in made:
        assert not link.find_parent(["h1", "h2", "h3", "code", "pre", "td", "th", "figcaption"])
        assert not link.find_parent("a")
        emphasised = link.find("em") is not None  # the author asks for it, wherever it is
        assert emphasised or not link.find_parent(class_="admonition-what-you-need")


def test_chapters_have_terms_and_the_glossary_has_none(soup):
    assert all(soup(name).select("a.term") for name in CHAPTERS[2:])
    assert not soup("glossary").select("a.term")
    links = [link for name in CHAPTERS for link in soup(name).select("a.term")]
    linked = {link["href"].split("#term-")[1] for link in links}
    assert {"squash", "primary-capsules", "margin-loss", "sleeping-layers", "vote", "rank"} <= linked
    common = {word.replace(" ", "-") for word in capsnb_links.TOO_COMMON}
    assert all(link.find("em") for link in links if link["href"].split("#term-")[1] in common)


@pytest.mark.parametrize(
    ("term", "yes", "no"),
    [
        ("margin loss", ["margin loss", "Margin losses", "margin\nloss"], ["margin lost", "margin-loss"]),
        ("transformation matrix", ["transformation matrices"], ["transformation matrixes"]),
        ("velocity", ["velocities", "Velocity"], ["veloc"]),
        ("sleeping layers", ["sleeping layer"], ["sleeping"]),
        ("AUC", ["AUC"], ["auc", "Auc"]),
        ("E-step", ["E-steps"], ["e-step"]),
    ],
)
def test_form_of_a_term(term, yes, no):
    assert all(re.fullmatch(capsnb_links.form(term), said) for said in yes)
    assert not any(re.fullmatch(capsnb_links.form(term), said) for said in no)


def messages() -> list[str]:
    page = (ROOT / "book" / "troubleshooting.md").read_text(encoding="utf-8")
    return [found[2] for found in re.finditer(r"^ *> (`+)(.+?)\1$", page, re.MULTILINE)]


@cache
def said_by_the_package() -> frozenset[str]:
    """Every text of the package, with … for what is filled in."""
    texts = set()
    for path in (ROOT / "capsnb").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                texts.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    return frozenset(texts)


@pytest.mark.parametrize("message", messages())
def test_quoted_message_is_one_of_the_package(message):
    assert message in said_by_the_package()


def test_every_quotation_is_a_message():
    """A box on the page is a message and nothing else, so that the test above sees all of them."""
    page = (ROOT / "book" / "troubleshooting.md").read_text(encoding="utf-8")
    assert len(messages()) == len(re.findall(r"^ *> ", page, re.MULTILINE)) > 15
