"""Pages carry what they use: scripts, icons and signs that a page does not need are taken out.

The theme brings two thousand icons, and draws them twice, by a script and by fonts; every page would load the index
of the search; a font for mathematics has five thousand signs, and the book writes some two hundred.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx

SCRIPT = r'\s*<script[^>]* src="[^"]*\b(?:%s)\.js[^"]*"></script>'
SEARCH_SCRIPT = re.compile(SCRIPT % "searchtools|language_data|searchindex")
ICON_SCRIPT = re.compile(SCRIPT % "fontawesome")
SPOKEN_ICON = re.compile(r'<i class="(?=[^"]*\bfa-)')

ICON_NAME = re.compile(r"\bfa-([a-z0-9-]+)")
ICON_RULE = re.compile(r'(?:\.fa-[a-z0-9-]+:before,?)+\{content:"\\[0-9a-f]+"\}')
SECOND_FORMAT = re.compile(r',url\([^)]*\.ttf\) format\("truetype"\)')
ICON = re.compile(r'"\\([0-9a-f]{4})"|([\ue000-\uf8ff])')  # by its number, or itself

FORMULA = re.compile(r"<math\b.*?</math>", re.DOTALL)
# Signs that no formula spells: a letter that stands alone is slanted by the browser, and a root is an element.
UNSPELT = {0x210E, *range(0x1D434, 0x1D468), *range(0x1D6FC, 0x1D71C), ord("√")}


def used_scripts(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict,
    doctree: nodes.document | None,
) -> None:
    """Leave out the scripts of live figures that a page does not show.

    And those of live kernels, which Jupyter Book adds twice: an error in the console.
    """
    body = context.get("body", "")

    def used(name: str) -> bool:
        figure = re.search(r"live_(\w+)\.js", name)
        return "thebe" not in name.lower() and (
            not figure or f'data-live="{figure[1]}"' in body
        )

    context["script_files"] = [
        script
        for script in context["script_files"]
        if used(str(script.filename))
        and "THEBE" not in str(script.attributes.get("body"))
    ]


def keep_signs(font: Path, signs: set[int]) -> None:
    """Leave in a font the signs with these code points, and what it needs to combine and to stretch them."""
    options = Options(
        layout_features=[], name_IDs=["*"], drop_tables=[*Options().drop_tables, "FFTM"]
    )
    file = TTFont(font)
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=signs)
    subsetter.subset(file)
    file.flavor = "woff2"
    file.save(font)


def lighten(app: Sphinx, exception: Exception | None) -> None:
    """Take out of pages, styles and fonts what the book does not use."""
    out, static = Path(app.outdir), Path(app.outdir) / "_static"
    styles = static / "styles" / "pydata-sphinx-theme.css"
    if exception or not styles.exists():
        return
    pages = {page: page.read_text(encoding="utf-8") for page in out.glob("*.html")}
    for page, text in pages.items():
        text = ICON_SCRIPT.sub("", text)
        text = text if page.stem == "search" else SEARCH_SCRIPT.sub("", text)
        text = SPOKEN_ICON.sub('<i aria-hidden="true" class="', text)
        page.write_text(text, encoding="utf-8")

    scripts = [
        script.read_text(encoding="utf-8") for script in static.glob("**/*theme.js")
    ]
    names = set(ICON_NAME.findall(" ".join([*pages.values(), *scripts])))
    style = SECOND_FORMAT.sub("", styles.read_text(encoding="utf-8"))
    style = ICON_RULE.sub(
        lambda rule: rule[0] if names & set(ICON_NAME.findall(rule[0])) else "", style
    )
    styles.write_text(style, encoding="utf-8")

    written = style + (static / "capsnb.css").read_text(encoding="utf-8")
    icons = {
        int(number, 16) if number else ord(sign)
        for number, sign in ICON.findall(written)
    }
    formulas = "".join("".join(FORMULA.findall(text)) for text in pages.values())
    for font in static.glob("vendor/fontawesome/webfonts/*.woff2"):
        keep_signs(font, icons)
    keep_signs(static / "latinmodern-math.woff2", UNSPELT | set(map(ord, formulas)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what happens when a page is written, and when all have been."""
    app.connect("html-page-context", used_scripts)
    app.connect("build-finished", lighten)
    return {"parallel_read_safe": True}
