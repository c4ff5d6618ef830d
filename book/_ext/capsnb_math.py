"""Mathematics as MathML, made when the book is built: no script sets it, so nothing moves and nothing is fetched.

The formula as it was written travels inside, for those who copy it. One that cannot be set is a warning: it fails the
build.
"""

from __future__ import annotations

import re

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)
converter = LatexToMathML(annotation=True, fancy_error=False)
# A font's prime is raised by itself; as an exponent it would be raised twice.
PRIME = re.compile(r"<msup>((?:(?!<msup>).)*?)<mo>([′″‴])</mo></msup>")
# A sign that \big or \Big stretches: browsers leave it the room of the widest that the font has.
BIG = re.compile(r'<mo minsize="([\d.]+)em" maxsize="\1em">(.)</mo>')

TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|[{}]", re.DOTALL)
OPENING, CLOSING = ("{", r"\begin", r"\left"), ("}", r"\end", r"\right")
WIDE_SPACE = (r"\quad", r"\qquad")
CLASS = "math notranslate nohighlight"


def scaled(big: re.Match) -> str:
    """Return such a sign as a larger one, moved so that its middle stays where it was, a quarter above the line."""
    size = float(big[1])
    sign = f'<mo stretchy="false" style="font-size: {size}em">{big[2]}</mo>'
    return f'<mpadded voffset="{(1 - size) / 4:.3f}em">{sign}</mpadded>'


def parts(latex: str) -> list[str]:
    """Split what stands side by side in a formula, with wide spaces between: a narrow screen puts it into lines."""
    found, depth, start = [], 0, 0
    for token in TOKEN.finditer(latex):
        depth += (token[0] in OPENING) - (token[0] in CLOSING)
        if depth == 0 and token[0] in WIDE_SPACE:
            found.append(latex[start : token.start()])
            start = token.end()
    return [part for part in [*found, latex[start:]] if part.strip()]


def mathml(latex: str, node: nodes.math | nodes.math_block) -> str:
    """Return a formula, or a part of one, as MathML."""
    own_lines = isinstance(node, nodes.math_block)
    try:
        formula = converter.convert_with_local_state(latex, displaystyle=own_lines)
    except LatexError as error:
        logger.warning("this formula cannot be set: %s", error, location=node)
        return ""
    formula = PRIME.sub(r'<mrow>\1<mo lspace="0" rspace="0">\2</mo></mrow>', formula)
    return BIG.sub(scaled, formula)


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    self.body.append(self.starttag(node, "span", "", CLASS=CLASS))
    self.body.append(f"{mathml(node.astext(), node)}</span>")
    raise nodes.SkipNode


def visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula that has lines of its own; where it is too wide, arrow keys scroll it."""
    self.body.append(self.starttag(node, "div", "", CLASS=CLASS, tabindex="0"))
    for part in parts(node.astext()):
        self.body.append(mathml(part, node))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer; `html_math_renderer: mathml` chooses it."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
