"""Print a notebook as text: each cell with its tags, and no outputs. Git compares notebooks by it.

    git config diff.notebook.textconv "python3 tools/notebook_text.py"    once in each clone
    git diff                                                              now shows what a reader would read

There is no second file that says the same and would have to be kept in step; what is committed is the notebook alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def text_of(notebook: Path) -> str:
    """Return the cells of a notebook, one after the other, each under a line with its kind and tags."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        tags = " ".join(cell["metadata"].get("tags", []))
        parts.append(f"# %% {cell['cell_type']} {tags}".rstrip() + "\n" + "".join(cell["source"]))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    sys.stdout.write(text_of(Path(sys.argv[1])))
