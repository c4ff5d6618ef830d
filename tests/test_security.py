"""Names are text and nothing else; nothing is fetched, unpickled or handed to a shell."""

import json
import re
import subprocess
import sys
import tomllib
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from capsnb import CapsNet, TrainConfig, evaluate, fit, load_data, plots
from capsnb.data import ImageData
from capsnb.experiments import RunResult
from capsnb.experiments.comparison import join_seeds
from capsnb.experiments.comparison_page import page
from capsnb.tables import escape, markdown

ROOT = Path(__file__).parents[1]
NAMES = (
    "<script>alert(1)</script>",
    r"<b>&$\alpha$",
    r"$x_{1}$ $\frac{",
    r"a\b|c",
    "=1+1",
    '"onload="x',
    "]]>&amp;",
    'font-family: no; style="d: e"',
    'url(#a) xlink:href id="b"',
    "#010203",
)


def texts(document):
    """What an SVG shows, by element, the lines of a label as they are."""
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", document, re.S)[0])
    return ["".join(element.itertext()) for element in svg.iter() if element.tag.endswith("text")]


@pytest.fixture(scope="module")
def named():
    """Data whose classes are called so, a network, its history and evaluation."""
    digits = load_data().subset(train=100, test=60)
    data = ImageData("folder:<i>$x$</i>", NAMES, digits.train, digits.test)
    model = CapsNet(channels=8, capsule_types=2)
    return data, model, fit(model, data, TrainConfig(epochs=1), progress=False), evaluate(model, data)


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_shows_a_name_as_it_is_written(name):
    image = torch.rand(1, 1, 4, 4)
    document = plots.to_html(plots.image_grid(image, titles=[name]))
    assert name in texts(document)
    assert not re.search(r"<(?:script|b|i)\b", document)


def test_figures_of_results_show_the_classes_as_they_are_written(named):
    data, model, history, evaluation = named
    matrix = texts(plots.to_svg(plots.confusion_matrix(evaluation)))
    assert all(matrix.count(name) >= 2 for name in NAMES)  # on both axes
    curves = texts(plots.to_svg(plots.curves({NAMES[1]: history, NAMES[2]: history})))
    assert set(NAMES[1:3]) <= set(curves)
    areas = texts(plots.to_svg(plots.roc(evaluation)))
    worst = sorted(NAMES, key=lambda name: evaluation.auc[name])[:3]
    assert all(any(text.startswith(f"{name}: 0.") for text in areas) for name in worst)
    pairs = texts(plots.to_svg(plots.mistakes(evaluation, data)))
    assert all(any(text.startswith(NAMES[m["truth"]]) for text in pairs) for m in evaluation.mistakes[:12])
    assert plots.to_svg(plots.reconstructions(model, data))
    shares = texts(plots.to_svg(plots.couplings(np.full((3, 1, 8, len(NAMES)), 0.1), labels=NAMES)))
    assert r"<b>&$\alpha$" in shares


def test_tex_is_not_started_whatever_somebody_has_set():
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True}):
        assert "$x$" in texts(plots.to_svg(plots.image_grid(torch.rand(1, 1, 4, 4), titles=["$x$"])))


def test_the_page_of_a_comparison_holds_no_element_of_a_name(named):
    data, model, history, evaluation = named
    runs = [RunResult.of(model, data, history, evaluation, label) for label in NAMES[:2]]
    html = page(join_seeds(runs))
    ours = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "div",
        "table",
        "tr",
        "th",
        "td",
        "ul",
        "li",
    }
    drawn = {"figure", "svg", "rect", "g", "path", "text", "tspan", "defs", "use", "clipPath", "image"}
    assert set(re.findall(r"<(\w+)", html)) <= ours | drawn
    assert not re.search(r"<[^>]*\son\w+=", html)
    assert NAMES[0] in unescape(html) and NAMES[1] in unescape(html)


def test_a_table_keeps_its_rows_whatever_its_cells_hold():
    from markdown_it import MarkdownIt

    rows = [
        ["network", "accuracy"],
        *([escape(name), "1"] for name in (*NAMES, "two\nlines", "_a_ *b* [c](d)")),
    ]
    html = MarkdownIt("commonmark").enable("table").render(markdown(rows))
    shown = [unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", html)]
    assert shown == [*NAMES, "two lines", "_a_ *b* [c](d)"]
    assert len(markdown([["a"], ["two\nlines"], ["b|c"]]).splitlines()) == 4


WATCHED = """
import json, sys
FORBIDDEN = "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "os.system"
seen, started = [], []

def watch(event, arguments):
    if event in FORBIDDEN or event == "pickle.find_class":
        seen.append([event, repr(arguments)[:200]])
    if event == "subprocess.Popen":
        started.append([str(part) for part in arguments[1]])

sys.addaudithook(watch)
import capsnb
from capsnb import CapsNet, TrainConfig, evaluate, fit, load_data, plots
from capsnb.experiments import RunResult
data = load_data().subset(train=64, test=20)
for _ in range(2):  # the second finds the checkpoint of the first
    model = CapsNet(channels=8, capsule_types=2)
    history = fit(model, data, TrainConfig(epochs=1), run_dir="run", progress=False)
evaluation = evaluate(model, data)
RunResult.of(model, data, history, evaluation).save("run.json")
RunResult.load("run.json")
plots.to_html(plots.confusion_matrix(evaluation))
try:
    load_data("cifar10", "nowhere")
except FileNotFoundError:
    pass
print(json.dumps([seen, started]))
"""


def test_nothing_is_fetched_unpickled_or_handed_to_a_shell(tmp_path):
    """Python reports what it does (PEP 578): a whole run opens no connection."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    seen, started = json.loads(done.stdout.splitlines()[-1])
    assert seen == []
    assert not [command for command in started if Path(command[0]).name in ("sh", "bash", "cmd.exe")]


def test_each_exception_from_a_rule_of_security_has_its_reason():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in settings["select"] and not any(rule.startswith("S1") for rule in settings["ignore"])
    for places in settings["per-file-ignores"]:
        assert places.startswith(("tests/", "*.ipynb"))
    excused = 0
    for path in [*(ROOT / "capsnb").rglob("*.py"), *(ROOT / "tools").glob("*.py")]:
        lines = path.read_text(encoding="utf-8").splitlines()
        for before, line in zip(["", *lines], lines, strict=False):
            if found := re.search(r"# noqa: S\d+(.*)", line):
                assert before.strip().startswith("#") or found[1].startswith(" - "), f"{path}: {line}"
                excused += 1
    assert excused > 5
