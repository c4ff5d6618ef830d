"""Links that nobody has to write: from code to the reference, from there to chapters, from words to the glossary.

They are made when a page is written, so that a notebook on its own stays as it is.
"""

from __future__ import annotations

import importlib
import re
from collections import defaultdict
from collections.abc import Iterator

from capsnb_pages import ROOT, cells_of, title_and_promise
from capsnb_reference import command_line
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

log = logging.getLogger(__name__)

Place = tuple[str, str]  # a page, and an identifier on it

# A name, perhaps called.
CODE = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)(?:\(.*\))?", re.S)
PACKAGES = (
    "capsnb",
    "capsnb.plots",
    "capsnb.kernels",
    "capsnb.bench",
    "capsnb.experiments",
    "capsnb.training",
    "capsnb.models",
    "capsnb.data",
)
# Their names are those of everyday words, or of what a chapter writes itself: linked with their module's name only.
SPOKEN_IN_FULL = ("bench", "checks")
CHAPTERS = re.compile(r"(chapters?)\s+(\d+(?:,\s+\d+)*(?:\s+and\s+\d+)?)")
# Words that the book also uses as anybody does, and two that are on every page: linked where they are emphasised.
TOO_COMMON = {
    *("activation", "agreement", "block", "branch", "gain", "head", "identity"),
    *("precision", "rank", "row", "seed", "silent", "states", "study", "tie"),
    *("capsule", "vote"),
}
NOT_PROSE = (
    nodes.title,
    nodes.literal,
    nodes.reference,
    nodes.caption,
    nodes.term,
    nodes.entry,
    nodes.emphasis,  # titles of papers
    nodes.math,
    nodes.raw,
    addnodes.pending_xref,
)
NO_PROSE_PAGES = ("reference", "bibliography")


def inside(node: nodes.Node, *kinds: type[nodes.Node]) -> bool:
    """Whether a node stands in one of these kinds."""
    while node := node.parent:
        if isinstance(node, kinds):
            return True
    return False


class Links(SphinxPostTransform):
    """What the transforms share."""

    # Before references are resolved, so that links that are there are seen.
    default_priority = 5

    def link(self, place: Place, inner: nodes.Node, kind: str) -> nodes.reference:
        """Return a link to a place in the book."""
        page = self.env.docname
        made = make_refnode(self.app.builder, page, place[0], place[1] or None, [inner])
        made["classes"].append(kind)
        return made


class ChapterLinks(Links):
    """Make links of "chapter 2, *Vectors that squash*" and "chapters 3, 4 and 8" in the reference."""

    def run(self, **kwargs: object) -> None:
        """Link every chapter that a docstring names."""
        if not self.env.docname.startswith("reference"):
            return
        files = sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb"))
        titles = {file.stem: title_and_promise(cells_of(file))[0] for file in files}
        pages = {int(page[:2]): page for page in titles}
        for text in list(self.document.findall(nodes.Text)):
            if not inside(text, nodes.reference, nodes.literal, nodes.title):
                self.replace(text, pages, titles)
        by_title = {title: page for page, title in titles.items()}
        for title in list(self.document.findall(nodes.emphasis)):
            page = by_title.get(" ".join(title.astext().split()))
            if page and not inside(title, nodes.reference):
                title.replace_self(self.link((page, ""), title.deepcopy(), "chapter"))

    def replace(
        self, text: nodes.Text, pages: dict[int, str], titles: dict[str, str]
    ) -> None:
        """Link the numbers in a text, and the title that follows the last one."""
        said, new, end = text.astext(), [], 0
        for found in CHAPTERS.finditer(said):
            new.append(nodes.Text(said[end : found.start()]))
            end, several = found.end(), found[1].endswith("s")
            if several:
                new.append(nodes.Text(found[1] + " "))
            for part in re.findall(r"\d+|\D+", found[2]):
                if not part.isdecimal():
                    new.append(nodes.Text(part))
                    continue
                page = pages[int(part)]
                inner = nodes.inline("", part if several else f"chapter {part}")
                made = self.link((page, ""), inner, "chapter")
                made["reftitle"] = titles[page]
                new.append(made)
        if new:
            text.parent.replace(text, [*new, nodes.Text(said[end:])])


class CodeLinks(Links):
    """Link a name of the package to its entry in the reference, at its first use on a page.

    In the reference, at its first use in each entry. A name that begins with capsnb and has no entry is a warning.
    """

    def run(self, **kwargs: object) -> None:
        """Link inline code."""
        places = self.places()
        linked: dict[object, set[Place]] = defaultdict(set)
        for code in list(self.document.findall(nodes.literal)):
            if inside(code, nodes.title, nodes.reference, addnodes.pending_xref):
                continue
            entry = next(entries(code), None)
            place = self.place(code, places)
            if place is None or place in linked[entry] or place in self.of(entry):
                continue
            linked[entry].add(place)
            code.replace_self(self.link(place, code.deepcopy(), "api"))

    def of(self, entry: nodes.Node | None) -> Iterator[Place]:
        """Yield where an entry itself is: it needs no link to itself."""
        for name in entry.findall(addnodes.desc_signature) if entry else ():
            yield from ((self.env.docname, identifier) for identifier in name["ids"])

    def place(self, code: nodes.literal, places: dict[str, Place]) -> Place | None:
        """Find what inline code means."""
        said = code.astext()
        words = said.removeprefix("python -m ").split()
        for count in range(len(words), 0, -1):
            if count > 1 and words[0] == "capsnb" and " ".join(words[:count]) in places:
                return places[" ".join(words[:count])]
        match = CODE.fullmatch(said)
        if match is None:
            return None
        name = match[1]
        for scope in scopes(code):
            if f"{scope}.{name}" in places:
                return places[f"{scope}.{name}"]
        home, _, last = name.rpartition(".")
        if last.isupper() and name not in places:  # a constant stands with its module
            name = home
        if name.startswith("capsnb.") and name not in places:
            log.warning("%s is not in the reference", name, location=code)
        return places.get(name)

    def places(self) -> dict[str, Place]:
        """Return where everything is that code can name; a name that may mean two things is not in it."""
        objects = self.env.get_domain("py").objects
        found: dict[str, set[Place]] = defaultdict(set)
        for full, entry in objects.items():
            place, parts = (entry.docname, entry.node_id), full.split(".")
            for k in range(len(parts) - 1):
                found[".".join(parts[k:])].add(place)
            tells = parts[-1] != parts[-1].lower() or "_" in parts[-1].strip("_")
            if tells and parts[1] not in SPOKEN_IN_FULL:
                found[parts[-1]].add(place)
        for package in PACKAGES:
            for name, thing in vars(importlib.import_module(package)).items():
                home = getattr(thing, "__module__", None) or ""
                full = f"{home}.{getattr(thing, '__qualname__', '')}"
                if full in objects and not name.startswith("_"):
                    place = (objects[full].docname, objects[full].node_id)
                    found[f"{package}.{name}"] = {place}
                    found[f"{package}.{name}".removeprefix("capsnb.")] = {place}
        for path, _ in command_line()[1:]:
            found[" ".join(path)] = {("reference-cli", "-".join(path))}
        return {name: there.pop() for name, there in found.items() if len(there) == 1}


def entries(node: nodes.Node) -> Iterator[addnodes.desc]:
    """Yield the entries around a node, the innermost first."""
    while node := node.parent:
        if isinstance(node, addnodes.desc):
            yield node


def scopes(node: nodes.Node) -> Iterator[str]:
    """Yield what a name in a docstring may be relative to: its class, its module."""
    for entry in entries(node):
        signature = next(entry.findall(addnodes.desc_signature))
        yield f"{signature['module']}.{signature['fullname']}"
        yield signature["module"]


def form(term: str) -> str:
    """Return a pattern for a term, singular or plural, that may begin a sentence and be broken over lines."""
    *others, last = map(re.escape, term.split())
    if last.endswith(("x", "y")):
        last = f"{last[:-1]}(?:{last[-1]}|{'ce' if last.endswith('x') else 'ie'}s)"
    else:
        last = f"{last.removesuffix('s') if not last.endswith('ss') else last}(?:e?s)?"
    whole = r"\s+".join([*others, last])
    return f"[{whole[0].upper()}{whole[0]}]{whole[1:]}" if term[0].islower() else whole


class GlossaryLinks(Links):
    """Link each term of the glossary where a page emphasises it alone (*vote*), or else at its first use in prose."""

    def run(self, **kwargs: object) -> None:
        """Link the terms that the page does not link by itself."""
        terms = {
            term: place
            for (kind, term), place in self.env.get_domain("std").objects.items()
            if kind == "term"
        }
        here = self.env.docname
        if here.startswith(NO_PROSE_PAGES) or here in {
            page for page, _ in terms.values()
        }:
            return
        for made in self.document.findall(addnodes.pending_xref):
            if made["reftype"] == "term":
                terms.pop(made["reftarget"], None)
        for word in list(self.document.findall(nodes.emphasis)):
            said = word.astext()
            term = next(
                (term for term in terms if re.fullmatch(form(term), said)), None
            )
            if term and not inside(word, nodes.title, nodes.reference, addnodes.desc):
                word.replace_self(self.link(terms.pop(term), word.deepcopy(), "term"))
        for term in TOO_COMMON & terms.keys():
            del terms[term]
        for paragraph in list(self.document.findall(nodes.paragraph)):
            if inside(paragraph, *NOT_PROSE) or aside(paragraph):
                continue
            for text in list(paragraph.findall(nodes.Text)):
                if terms and not inside(text, *NOT_PROSE):
                    self.replace(text, paragraph, terms)

    def replace(
        self, text: nodes.Text, paragraph: nodes.paragraph, terms: dict[str, Place]
    ) -> None:
        """Link the terms in a text that have not been linked yet, and take them from the list."""
        longest = sorted(terms, key=len, reverse=True)
        any_term = "|".join(f"({form(term)})" for term in longest)
        said, new, end = text.astext(), [], 0
        for found in re.finditer(rf"(?<![\w-])(?:{any_term})(?![\w-])", said):
            term = longest[found.lastindex - 1]
            opens = found[0][0].isupper() and term[0].islower()
            if term not in terms or (opens and not begins(text, found, paragraph)):
                continue
            inner = nodes.inline("", found[0])
            new.append(nodes.Text(said[end : found.start()]))
            new.append(self.link(terms.pop(term), inner, "term"))
            end = found.end()
        if new:
            text.parent.replace(text, [*new, nodes.Text(said[end:])])


def begins(text: nodes.Text, found: re.Match, paragraph: nodes.paragraph) -> bool:
    """Whether a match begins a sentence, and no name such as Momentum Capsule Network."""
    if re.match(r"\s+[A-Z]", found.string[found.end() :]):
        return False
    before = found.string[: found.start()].rstrip()
    if before:
        return before.endswith((".", "?", "!", ":"))
    return text is next(iter(paragraph.findall(nodes.Text)))


def aside(node: nodes.Node) -> bool:
    """Whether a node stands in a chapter's card or its references, or in the map of the chapters."""
    while node := node.parent:
        if {"admonition-what-you-need", "chapter-map"} & set(node.get("classes", ())):
            return True
        if "references" in node.get("names", ()):
            return True
    return False


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transforms."""
    for transform in (ChapterLinks, CodeLinks, GlossaryLinks):
        app.add_post_transform(transform)
    return {"parallel_read_safe": True}
