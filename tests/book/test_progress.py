"""Progress bars in a real kernel: each is one output that changes and is empty in the end."""

import copy

import chapters
import nbformat
import pytest
from nbclient import NotebookClient

WORK = """\
import time
from capsnb import progress_bar

def work(delay):
    for number in progress_bar(range(4), "counting", delay=delay):
        time.sleep(0.3)
    print("done")

def slowly():
    with progress_bar(label="counting", delay=0.5, total=2) as bar:
        bar.update()
        bar.set_postfix_str("early")
        time.sleep(0.6)
        bar.set_postfix_str("late")
    print("done")

def train():
    import capsnb

    data = capsnb.load_data().subset(train=32, test=10)
    capsnb.fit(capsnb.CapsNet(channels=8, capsule_types=2), data, capsnb.TrainConfig(epochs=2))
    print("done")
"""


class Watched(NotebookClient):
    """A client that notes what outputs show while a cell runs."""

    def process_message(self, message, cell, index):
        """Note what is shown, then go on."""
        self.shown = [*getattr(self, "shown", []), message["content"].get("data", {}).get("text/plain")]
        return super().process_message(message, cell, index)


@pytest.fixture(scope="module")
def ran():
    sources = (WORK, "work(0)", "work(60)", "train()", "slowly()")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    client = Watched(notebook, timeout=120)
    client.execute()
    return notebook, [line for line in client.shown if line]


def test_a_bar_counts_and_wipes_itself(ran):
    notebook, shown = ran
    assert any(line.startswith("counting:  50%|") and "2/4" in line for line in shown), shown
    bar, done = notebook.cells[1].outputs
    assert (bar.output_type, bar.data) == ("display_data", {"text/plain": ""})
    assert (done.name, done.text) == ("stdout", "done\n")


def test_a_postfix_waits_and_goes_too(ran):
    notebook, shown = ran
    assert not any("early" in line and "late" not in line for line in shown)
    assert any("late" in line for line in shown)
    assert [output.data for output in notebook.cells[4].outputs[:1]] == [{"text/plain": ""}]


@pytest.mark.parametrize("cell", [2, 3])
def test_short_work_shows_no_bar(ran, cell):
    notebook = chapters.tidy(copy.deepcopy(ran[0]))
    assert [output.get("text") for output in notebook.cells[cell].outputs] == ["done\n"]


def test_what_was_printed_before_and_after_a_bar_is_one_output():
    stream = {"output_type": "stream", "name": "stdout", "text": "a\n"}
    bar = {"output_type": "display_data", "metadata": {}, "data": {"text/plain": ""}}
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.from_dict(o) for o in (stream, bar, stream)])
    (outputs,) = [c.outputs for c in chapters.tidy(nbformat.v4.new_notebook(cells=[cell])).cells]
    assert [output.text for output in outputs] == ["a\na\n"]


def test_a_committed_notebook_has_no_trace_of_bars(ran):
    outputs = [cell.outputs for cell in chapters.tidy(ran[0]).cells]
    assert [[output.text for output in each] for each in outputs] == [[], *4 * [["done\n"]]]
