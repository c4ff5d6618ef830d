"""Draw the card that a link to the book shows elsewhere, book/_static/cover.png: python tools/cover.py."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import torch
import yaml
from matplotlib.figure import Figure

from capsnb import squash
from capsnb.files import write_atomically
from capsnb.plots import COLOURS

ROOT = Path(__file__).resolve().parent.parent
PIXELS = (1200, 630)  # what sites cut such cards to
PAPER, INK, MUTED = "#14181e", "#f4f6f8", "#aeb8c2"


def cover(title: str) -> bytes:
    """Return a PNG: a field of vectors and what the squash makes of them, and the book's title."""
    matplotlib.use("agg")
    fig = Figure(figsize=(PIXELS[0] / 100, PIXELS[1] / 100), dpi=100, facecolor=PAPER)
    field = fig.add_axes((0.5, 0, 0.5, 1))
    side = torch.linspace(-2.4, 2.4, 13)
    s = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1).flatten(0, 1)  # [169, 2]
    v = squash(s)
    arrow = {"angles": "xy", "scale_units": "xy", "scale": 2.6}
    field.quiver(*s.T, *v.T, v.norm(dim=1), cmap="cividis", clim=(0.1, 1), width=0.006, **arrow)
    field.set(xlim=(-2.85, 2.85), ylim=(-2.85 * 1.05, 2.85 * 1.05), aspect="equal")
    field.axis("off")
    name, _, rest = title.partition(",")
    words = {"color": INK, "family": "DejaVu Sans", "ha": "left", "va": "baseline"}
    fig.text(0.06, 0.60, "\n".join(name.split()), fontsize=46, weight="bold", linespacing=1.15, **words)
    fig.text(0.06, 0.45, rest.strip(), fontsize=26, **words | {"color": COLOURS[0]})
    fig.text(
        0.06,
        0.13,
        "A book of executable notebooks\nand the small package that it builds",
        fontsize=19,
        linespacing=1.5,
        **words | {"color": MUTED},
    )
    picture = io.BytesIO()
    fig.savefig(picture, format="png", facecolor=PAPER, metadata={"Software": None})
    return picture.getvalue()


if __name__ == "__main__":
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    print(write_atomically(ROOT / "book" / "_static" / "cover.png", cover(settings["title"])))
