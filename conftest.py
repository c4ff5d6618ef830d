"""What pytest does here beyond collecting: who sees a GPU, how workers share the tests, what was skipped.

A module whose library is not installed has no doctests that could run, so it is left out. Test files are not: one that
cannot be imported is an error, not a test less.
"""

import os
from collections import Counter, defaultdict
from importlib.util import find_spec

import pytest

# Guards run after a chapter's last cell, with its variables.
collect_ignore = ["tests/book/guards", *([] if find_spec("triton") else ["capsnb/kernels/triton_backend.py"])]

# The first test that uses one of these fixtures makes it for all workers, so it starts first.
MADE_ONCE = ("pages", "site", "older")
NOT_CHOSEN = {  # marker -> what the summary says of tests that a Makefile target leaves out
    "older_pytorch": "chapters beside the oldest PyTorch that capsnb works with: make test-all",
    "all_looks": "pages loaded in the dark and on a phone, and their contrast: make test-all",
    "book": "chapters and pages: make test",
}
ILLUSTRATIONS = "doctests whose output differs from run to run: they only illustrate, nothing is missing"
LEFT_OUT = pytest.StashKey[Counter]()


def pytest_configure(config):
    """Hide the GPU, and give each worker one thread; both hold for subprocesses of tests as well.

    This must come before torch is imported, so it cannot be a fixture.
    """
    if config.getoption("markexpr").strip() != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    config.stash[LEFT_OUT] = Counter()


@pytest.hookimpl(trylast=True)  # after -m and -k have chosen
def pytest_collection_modifyitems(config, items):
    """Skip what the GPU policy skips, and deal the tests to the workers."""
    for item in items:
        if item.get_closest_marker("gpu") and (why := no_gpu(config)):
            item.add_marker(pytest.mark.skip(reason=why))
    if workers := getattr(config, "workerinput", {}).get("workercount"):
        items[:] = dealt(items, workers)


def no_gpu(config) -> str | None:
    """Return why a test marked `gpu` cannot run in this run."""
    if config.getoption("markexpr").strip() != "gpu":
        return "tests on a GPU run by themselves: make test does that at its end where it finds one"
    import torch

    return None if torch.cuda.is_available() else "PyTorch finds no GPU here"


def dealt(items: list, workers: int) -> list:
    """Order tests for `--dist worksteal`, which gives each worker a piece of the list and moves tests between them.

    Each piece begins with what all workers wait for; then come its chapters, the longest first. Tests of pages stand
    last, when the pages have been built. Tests of one file stay together, since they share what they prepare.
    """
    from chapters import seconds  # of tools/, which is on the path by now

    first, chapters, units, pages = [], [], [], []
    waiting = set(MADE_ONCE)
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        made = waiting & set(fixtures)
        if made and not item.get_closest_marker("chapter"):
            waiting -= made
            first.append(item)
        elif item.get_closest_marker("chapter"):
            chapters.append(item)
        else:
            (pages if "pages" in fixtures else units).append(item)

    def cost(item) -> float:
        return seconds(item.callspec.params["path"])

    def rank(item) -> tuple[bool, float]:
        late = item.get_closest_marker("older_pytorch")  # its environment is made meanwhile
        return late is not None, -cost(item)

    pieces, loads = [first[k::workers] for k in range(workers)], [0.0] * workers
    for item in sorted(chapters, key=rank):
        idlest = loads.index(min(loads))
        pieces[idlest].append(item)
        loads[idlest] += cost(item)
    left = len(items)
    for k, piece in enumerate(pieces):
        last = pages[len(pages) * k // workers : len(pages) * (k + 1) // workers]
        size = left // (workers - k)  # what --dist worksteal gives to this worker
        room = max(0, size - len(piece) - len(last))
        piece += units[:room] + last
        del units[:room]
        left -= len(piece)
    return [item for piece in pieces for item in piece] + units


def pytest_deselected(items):
    """Count what a target leaves out by -m."""
    for item in items:
        if item.config.option.keyword:
            return  # chosen by hand
        marker = next((name for name in NOT_CHOSEN if item.get_closest_marker(name)), None)
        if marker:
            item.config.stash[LEFT_OUT][marker] += 1


def pytest_sessionfinish(session):
    """Hand the counts of a worker to the process that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(session.config.stash[LEFT_OUT])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Take the counts of a worker: each has collected all tests, so one worker's are everybody's."""
    node.config.stash[LEFT_OUT] |= Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter, config):
    """Say what was skipped and what was not chosen, by reason."""
    counts, files = Counter(), defaultdict(set)
    for report in terminalreporter.stats.get("skipped", []):
        path, _, reason = report.longrepr
        reason = reason.removeprefix("Skipped: ")
        if reason.endswith("+SKIP option"):
            reason = ILLUSTRATIONS
        counts[reason] += 1
        files[reason].add(os.path.relpath(report.nodeid.split("::")[0] or path))
    if counts:
        terminalreporter.section(f"Tests that were skipped: {counts.total()}")
        for reason, count in counts.most_common():
            where = sorted(files[reason])
            more = f" and {len(where) - 3} more" if len(where) > 3 else ""
            terminalreporter.line(f"{count:6}  {reason}")
            terminalreporter.line(f"        in {', '.join(where[:3])}{more}")
    if left_out := config.stash[LEFT_OUT]:
        terminalreporter.section(f"Tests that another command runs: {left_out.total()}")
        for marker, count in left_out.most_common():
            terminalreporter.line(f"{count:6}  {NOT_CHOSEN[marker]}")
