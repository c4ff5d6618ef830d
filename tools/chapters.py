"""Execute chapters in place, measure them, and keep their cards true.

    python tools/chapters.py run [03 ...]    execute (all, or the named ones), measure, refresh the cards
    python tools/chapters.py cards           refresh reading times and cards without executing
    python tools/chapters.py tables          refresh the cells that are one table of results, without executing
    python tools/chapters.py pages           execute the notebooks that are no chapters
    python tools/chapters.py tidy FILE ...   remove what differs from machine to machine from notebooks

What was measured goes into results/chapters.json. The second cell of a chapter, its card, holds the figures
between `<!-- measured -->` and `<!-- /measured -->`; nobody types them.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from capsnb import experiments
from capsnb.files import write_atomically
from capsnb.notebook import duration, time_of
from capsnb.profiling import hardware, versions

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
RESULTS = ROOT / "results" / "chapters.json"
SET_UP = re.compile(r"(quick profile, ).*?( · seed )")  # what start_chapter says of a chapter's time
CARD = re.compile(r"(<!-- measured -->).*?(<!-- /measured -->)", re.DOTALL)
TITLE = re.compile(r"\A# @title [^\n]*\n")  # what Colab shows of a folded cell
TABLE = re.compile(r"Markdown\((experiments\.\w+\([^()]*\))\)")  # a whole cell
WORDS_PER_MINUTE = 200
SECONDS_PER_CODE_CELL = 12
CELL_TIMEOUT = 3600

# Asked of the kernel after the last cell: the peaks of its whole life.
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
PEAKS = {
    "memory": f"__import__('resource').getrusage(0).ru_maxrss * {MAXRSS_UNIT}",
    "gpu": "(lambda cuda: cuda.get_device_name() if cuda.is_available() else '')(__import__('torch').cuda)",
    "gpu_memory": "(lambda c: c.max_memory_allocated() if c.is_available() else 0)(__import__('torch').cuda)",
}


def chapters(numbers: Iterable[str] = ()) -> list[Path]:
    """Return the notebooks of the chapters with these numbers, or of all chapters.

    Raises:
        FileNotFoundError: there is no chapter of that number.
    """
    every = sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))
    wanted = [f"{int(number):02d}" for number in numbers]
    have = {path.name[:2]: path for path in every}
    for number in wanted:
        if number not in have:
            raise FileNotFoundError(
                f"no chapter {number} in {BOOK.name}/; there are {', '.join(have) or 'none yet'}"
            )
    return [have[number] for number in wanted] or every


def pages() -> list[Path]:
    """Return the notebooks that are no chapters: they have no card, and their cost is not measured."""
    return sorted(set(BOOK.glob("*.ipynb")) - set(chapters()))


def read(path: Path) -> NotebookNode:
    """Read a notebook."""
    return nbformat.read(path, as_version=4)


def write(path: Path, notebook: NotebookNode) -> None:
    """Write a notebook, tidied, whole or not at all."""
    write_atomically(path, nbformat.writes(tidy(notebook)) + "\n")


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Remove timestamps and editor leftovers; name the plain kernel; fold the cells that the book folds.

    Streams that arrived in pieces are joined, so that two runs that printed the same give the same file.
    """
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell.setdefault("id", nbformat.v4.new_raw_cell().id)
        if cell.cell_type == "code":
            fold(cell, "hide-input" in (tags or []))
            cell.outputs = joined(cell.outputs)
            for output in cell.outputs:
                if "metadata" in output:  # a figure's has its size, the rest its history
                    kept = {kind: of for kind, of in output.metadata.items() if kind in output.data}
                    output.metadata = nbformat.from_dict(kept)
    return notebook


def fold(cell: NotebookNode, folded: bool) -> None:
    """Fold a cell, or unfold it, as in the book: JupyterLab and Colab each have a way, and VS Code may follow one."""
    cell.source = TITLE.sub("", cell.source)
    if folded:
        what = "Draw the figure" if "plots." in cell.source else "Compute the numbers"
        cell.source = f"# @title {what} below\n{cell.source}"
        cell.metadata.update({"cellView": "form", "jupyter": {"source_hidden": True}})


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of the same stream, and show them as a terminal would at the end.

    A progress bar writes over itself with carriage returns; what is left of one that wiped itself is nothing.
    """
    result: list[NotebookNode] = []
    for output in outputs:
        if bar(output):
            continue
        last = result[-1] if result else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            result.append(output)
    for output in result:
        if output.output_type == "stream" and "\r" in output.text:
            output.text = "\n".join(
                line.rstrip("\r").rpartition("\r")[2].rstrip() for line in output.text.split("\n")
            )
    return [output for output in result if output.output_type != "stream" or output.text.strip()]


def bar(output: NotebookNode) -> bool:
    """Whether a progress bar that wiped itself is all that an output was."""
    return output.output_type == "display_data" and output.data == {"text/plain": ""}


def reading_minutes(notebook: NotebookNode) -> int:
    """Return the minutes it takes to read a chapter: its words, and a look at each code cell."""
    prose = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    words = len(
        re.findall(r"[^\W\d_]{2,}", re.sub(r"<!--.*?-->.*?<!--.*?-->|\]\([^)]*\)|</?\w+>", " ", prose))
    )
    code = sum(cell.cell_type == "code" for cell in notebook.cells)
    return max(1, round(words / WORDS_PER_MINUTE + code * SECONDS_PER_CODE_CELL / 60))


def card_line(figures: dict[str, Any]) -> str:
    """Return the sentence that a chapter's card shows about its cost."""
    cpu, gpu = figures.get("cpu"), figures.get("gpu")
    minutes = f"about {figures['read_minutes']} minute{'s' * (figures['read_minutes'] != 1)}"
    runs = []
    if cpu:
        memory = f"peak memory {round(cpu['peak_memory_mb'], -1):.0f} MB"
        runs.append(f"{duration(cpu['seconds'])} on {cpu['hardware']['cores']} CPU cores, {memory}")
    if gpu:
        runs.append(f"{duration(gpu['seconds'])} on one {gpu['hardware']['gpu']}")
    return f"{minutes} to read" + (f"; to run: {'; '.join(runs)}" if runs else "")


def load_results() -> dict[str, dict[str, Any]]:
    """Return what has been measured, by chapter."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))["chapters"] if RESULTS.exists() else {}


def seconds(path: Path) -> float:
    """Return what a chapter took on a CPU when it was measured; 0 where it was not."""
    measured = load_results().get(path.stem, {}).get("cpu")
    return measured["seconds"] if measured else 0


def save_results(results: dict[str, dict[str, Any]]) -> None:
    """Write results/chapters.json whole or not at all."""
    note = "Written by tools/chapters.py: the cost of executing each chapter, kernel start included."
    content = {"about": note, "chapters": dict(sorted(results.items()))}
    write_atomically(RESULTS, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def refresh_card(notebook: NotebookNode, figures: dict[str, Any]) -> None:
    """Write the figures into the chapter's card.

    Raises:
        ValueError: the second cell has no place for them.
    """
    figures["read_minutes"] = reading_minutes(notebook)
    card = notebook.cells[1]
    if not CARD.search(card.source):
        raise ValueError(
            "the chapter's second cell must be its card, with "
            "'<!-- measured --><!-- /measured -->' where the cost stands"
        )
    card.source = CARD.sub(lambda found: found[1] + card_line(figures) + found[2], card.source)
    for output in notebook.cells[2].outputs:  # it ran before this run was measured
        run = figures["cpu"] if "No GPU" in output.text else figures["gpu"] or figures["cpu"]
        output.text = SET_UP.sub(rf"\g<1>{time_of(run)}\g<2>", output.text)


def refresh_tables(notebook: NotebookNode) -> None:
    """Give the cells that are nothing but a table of `results/` the output that they would have now."""
    for cell in notebook.cells:
        made = TABLE.fullmatch(cell.source) if cell.cell_type == "code" else None
        for output in cell.outputs if made else []:
            # The cell is one call of `capsnb.experiments`, and nothing else: TABLE lets no parenthesis into it.
            output.data["text/markdown"] = eval(made[1], {"experiments": experiments})  # noqa: S307


def execute(notebook: NotebookNode) -> dict[str, Any]:
    """Execute a notebook in an empty folder and return what it cost.

    The empty folder is what a reader has who downloaded the one file.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; its traceback says where.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as empty:
        place = {"metadata": {"path": empty}}
        client = NotebookClient(notebook, timeout=CELL_TIMEOUT, record_timing=False, resources=place)
        with client.setup_kernel():
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
            seconds = time.perf_counter() - start
            peaks = ask(client, PEAKS)
    gpu = peaks["gpu"]
    return {
        "seconds": round(seconds, 1),
        "peak_memory_mb": round(peaks["memory"] / 1e6, 1),
        **({"peak_gpu_memory_mb": round(peaks["gpu_memory"] / 1e6, 1)} if gpu else {}),
        "profile": os.environ.get("CAPSNB_PROFILE", "quick"),
        "date": datetime.date.today().isoformat(),
        "hardware": {**hardware(), "gpu": gpu or None},
        "versions": versions(),
    }


def ask(client: NotebookClient, expressions: dict[str, str]) -> dict[str, Any]:
    """Evaluate Python expressions in the kernel, leaving no trace in the notebook."""
    reply = client.wait_for_reply(client.kc.execute("", silent=True, user_expressions=expressions))
    answers = reply["content"]["user_expressions"]
    for name, answer in answers.items():
        if answer["status"] != "ok":
            raise RuntimeError(f"the kernel could not tell its {name}: {answer['evalue']}")
    return {name: ast.literal_eval(answer["data"]["text/plain"]) for name, answer in answers.items()}


def run(numbers: list[str]) -> None:
    """Execute chapters in place, measure them, refresh their cards."""
    for path in chapters(numbers):
        print(f"{path.name} ...", end=" ", flush=True)
        notebook, busy = read(path), os.getloadavg()[0]
        measured = {**execute(notebook), "load_before": round(busy, 1)}
        measured["command"] = f"python tools/chapters.py run {path.name[:2]}"
        results = load_results()
        figures = {"read_minutes": 0, "cpu": None, "gpu": None, **results.get(path.stem, {})}
        if measured["profile"] == "quick":  # the card speaks of the quick profile
            figures["gpu" if measured["hardware"]["gpu"] else "cpu"] = measured
        refresh_card(notebook, figures)
        write(path, notebook)
        save_results({**results, path.stem: figures})
        print(f"{measured['seconds']:.1f} s, peak memory {measured['peak_memory_mb']:.0f} MB")
        if busy > 0.5 * hardware()["cores"]:
            print(f"  the machine was busy before (load {busy:.1f}): measure again when it is quiet")


def cards() -> None:
    """Refresh reading times and cards without executing; forget chapters that are no more."""
    results = load_results()
    kept = {}
    for path in chapters():
        notebook = read(path)
        kept[path.stem] = {"read_minutes": 0, "cpu": None, "gpu": None, **results.get(path.stem, {})}
        refresh_card(notebook, kept[path.stem])
        write(path, notebook)
    save_results(kept)


def tables() -> None:
    """Refresh the tables of all chapters and pages."""
    for path in [*chapters(), *pages()]:
        notebook = read(path)
        refresh_tables(notebook)
        write(path, notebook)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run").add_argument("numbers", nargs="*")
    commands.add_parser("cards")
    commands.add_parser("tables")
    commands.add_parser("pages")
    commands.add_parser("tidy").add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.command == "run":
            run(arguments.numbers)
        elif arguments.command == "cards":
            cards()
        elif arguments.command == "tables":
            tables()
        elif arguments.command == "pages":
            for path in pages():
                notebook = read(path)
                execute(notebook)
                write(path, notebook)
        else:
            for path in arguments.files:
                write(path, read(path))
    except (FileNotFoundError, ValueError) as problem:
        sys.exit(f"capsnb: {problem}")


if __name__ == "__main__":
    main()
