"""`tools/gpu.py`: parts that are bounded, goals that are judged, one file; a rehearsal of it on the CPU."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import gpu
import psutil
import pytest
import torch
import typer
from gpu_check import job, layers, measurements, training
from hypothesis import given
from hypothesis import strategies as st

from capsnb.bench import LAYER_SIZES, Bench
from capsnb.kernels import measured

posix = pytest.mark.skipif(sys.platform == "win32", reason="processes end in another way on Windows")
WRITES = """
import json, sys
folder, part, figures = sys.argv[1:]
from pathlib import Path
path = Path(folder) / "parts" / f"{part}.json"
path.parent.mkdir(parents=True, exist_ok=True)
said = {"figures": json.loads(figures), "notes": [f"{part} was here"], "hardware": {"gpu": "none"}}
path.write_text(json.dumps(said))
"""
HANGS = """
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
Path(sys.argv[1], "pids").write_text(f"{child.pid}")
print("working", flush=True)
time.sleep(600)
"""
CRASHES = """
import os, subprocess, sys
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path(sys.argv[1], "orphan").write_text(f"{child.pid}")
print("about to", flush=True)
os.abort()
"""


def python(code, *arguments):
    return [sys.executable, "-S", "-c", code, *map(str, arguments)]


@pytest.fixture
def parts(monkeypatch, tmp_path):
    """A function that makes a check of four parts; what each runs is given."""
    monkeypatch.setattr(gpu, "SHORTEST", 0.01)
    monkeypatch.setattr(gpu, "PACKING", 0.0)

    def made(seconds, device="cuda", commands=(), **programs):
        monkeypatch.setattr(gpu, "SECONDS", dict.fromkeys(programs, 1.0))
        folder = tmp_path / "work"
        folder.mkdir()
        asked = []

        def command(part, device, folder, limit):
            asked.append((part, limit))
            return programs[part](folder, part)

        monkeypatch.setattr(gpu, "command", command)
        check = gpu.Check(device, seconds / 60, tmp_path / "out", folder, list(commands))
        check.asked = asked
        return check

    return made


def writing(**figures):
    return lambda folder, part: python(WRITES, folder, part, json.dumps(figures))


def ended(file):
    """Whether the process whose number is in a file has ended."""
    number = int(file.read_text())
    return not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE


def packed(check):
    with zipfile.ZipFile(check.out / f"{check.name}.zip") as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


@posix
def test_a_part_that_hangs_or_crashes_loses_nothing_of_the_others(parts):
    check = parts(
        12,
        mnist=writing(mnist_tf32_ms=3.0, mnist_epoch_s=2.5),
        tuner=lambda folder, part: python(HANGS, folder),
        auto=lambda folder, part: python(CRASHES, folder),
        bits=writing(same_seed_bits=0, resumed_bits=3),
    )
    check.run(list(gpu.SECONDS))
    assert [part for part, _ in check.asked] == ["mnist", "tuner", "auto", "bits"]
    ends = {part: outcome.text for part, outcome in check.outcomes.items()}
    assert [outcome.finished for outcome in check.outcomes.values()] == [True, False, False, True]
    assert ends["tuner"].startswith("killed after ") and "status -6: about to" in ends["auto"]
    assert ended(check.folder / "pids") and ended(check.folder / "orphan")
    files = packed(check)
    assert {"gpu/gpu.md", "gpu/parts/mnist.json", "gpu/parts/bits.json", "gpu/logs/tuner.log"} <= set(files)
    page = files["gpu/gpu.md"]
    assert "working" in files["gpu/logs/tuner.log"] and "bits was here" in page
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    assert "3 ms" in rows["step in `fit`, MoCapsNet, MNIST, B = 128, TF32"]
    assert rows["step in `fit`, MoCapsNet, MNIST, B = 128, TF32"].rstrip("| ").endswith("reached")
    assert "not measured: its part ended without it, see the log" in rows["the same step in bf16"]
    assert rows["MNIST epoch in `fit`"].rstrip("| ").endswith("missed")
    assert "not measured: killed after" in rows["layer 1, forward and backward, kernels alone"]
    assert rows["resumed: bits that differ"].rstrip("| ").endswith("missed")
    assert (check.out / "gpu.md").read_text() == page


def test_parts_that_come_too_late_say_so(parts):
    slow = "import time; time.sleep(600)"
    check = parts(
        1, mnist=lambda *_: python(slow), bits=writing(same_seed_bits=0), commands=["reproduce depth"]
    )
    check.run(["mnist"])
    check.end = time.monotonic()
    check.run(["bits"])
    assert check.outcomes["bits"].text == "not started, the time was used up"
    assert check.outcomes["then reproduce depth"].text == "not started, the time was used up"
    assert "same seed twice: bits that differ" in check.goals()
    assert check.goals().count("not measured: not started, the time was used up") == 2


def test_a_command_of_then_gets_what_is_left(parts, monkeypatch):
    given_time = []

    def then_command(words, folder, left):
        given_time.append((words, left, folder))
        return python("import time; time.sleep(0.5)")

    monkeypatch.setattr(gpu, "then_command", then_command)
    check = parts(240, bits=writing(same_seed_bits=0), commands=["reproduce depth", "reproduce best"])
    check.run(["bits"])
    (_, limit), (first, left, folder), (second, less, _) = check.asked[0], *given_time
    assert limit == 1.0, "with --then a part has its own seconds, not a share of everything"
    assert (first, second) == ("reproduce depth", "reproduce best") and folder == check.folder
    assert 230 < left < 240 and 0.4 < left - less < 5
    assert list(check.outcomes) == ["bits", "then reproduce depth", "then reproduce best"]


def test_reproduce_is_told_its_time_and_its_folder():
    words = gpu.then_command("reproduce backbones --seeds 1 --workers 2", Path("there"), 100.4)
    assert words[1:] == [
        *("-m", "capsnb", "reproduce", "backbones", "--seeds", "1", "--workers", "2"),
        *("--budget", "80s", "--out", str(Path("there/reproduced"))),
    ]
    words = gpu.then_command("reproduce best --budget 9s --out mine", Path("there"), 100.4)
    assert words[3:] == ["reproduce", "best", "--budget", "9s", "--out", "mine"]
    assert gpu.then_command("bench step", Path("there"), 100.4)[3:] == ["bench", "step"]
    assert gpu.then_command("reproduce best", Path("there"), 3.0)[-3] == "0s"


@given(
    left=st.floats(0, 1000),
    minutes=st.floats(0.1, 20),
    keep=st.booleans(),
    used=st.lists(st.floats(0, 1), min_size=10, max_size=10),
)
def test_parts_never_get_more_than_is_left(left, minutes, keep, used):
    names = list(gpu.SECONDS)
    for number, share in enumerate(used):
        limit = gpu.limit_of(names[number:], left, minutes, keep=keep)
        assert 0 <= limit <= left and (limit >= gpu.SHORTEST or limit == left)
        if keep:
            assert limit <= max(gpu.SECONDS[names[number]], gpu.SHORTEST)
        left -= share * limit


def test_what_a_part_leaves_is_for_the_next():
    names = list(gpu.SECONDS)
    whole = sum(gpu.SECONDS.values())
    assert gpu.limit_of(names, whole, 4, keep=False) == pytest.approx(gpu.SECONDS[names[0]])
    assert gpu.limit_of(names[-1:], 77.0, 4, keep=False) == 77
    assert gpu.limit_of(names[-1:], 77.0, 9, keep=True) == gpu.SECONDS[names[-1]]
    assert gpu.limit_of(names[:1], 77.0, 2, keep=True) == gpu.SECONDS[names[0]] / 2


@pytest.mark.parametrize(
    ("value", "device", "cells"),
    [
        (0.2, "cuda", ("0.2 ms", "reached")),
        (0.4, "cuda", ("0.4 ms", "reached")),
        (0.41, "cuda", ("0.41 ms", "missed")),
        (math.nan, "cuda", ("nan ms", "missed")),
        (None, "cuda", ("not measured: killed", "not measured")),
        (0.2, "cpu", ("0.2 ms", "rehearsal")),
        (None, "cpu", ("not measured: killed", "rehearsal")),
    ],
)
def test_verdicts(value, device, cells):
    goal = gpu.Goal("a block", "6.5 ms", 0.4, "ms", "block_ms", "mnist")
    figures = {} if value is None else {"block_ms": value}
    assert gpu.judged(goal, figures, "killed", device) == cells


def test_goals_belong_to_parts():
    assert {goal.part for goal in gpu.GOALS} <= set(gpu.SECONDS)
    assert len({goal.figure for goal in gpu.GOALS}) == len(gpu.GOALS)


def lines():
    blocks = {"iteration": {"rows": 32, "warps": 8, "stages": 2, "precision": "tf32x3"}}
    return [
        {"sizes": [128, 1152, 32, 8, 8], "ms": {"eager": 2.0, "fused": 5.0, "triton": 0.3}, "blocks": blocks},
        {"sizes": [128, 32, 32, 8, 8], "ms": {"eager": 0.1, "fused": 0.4, "triton": 0.2}},
    ]


def test_the_table_of_auto_is_read_back(tmp_path):
    path = tmp_path / "gpu-routing.json"
    entry = {"gpu": "a T4", "source": "made up", "layers": lines()}
    path.write_text(layers.with_entry(path, "7.5", entry))
    path.write_text(layers.with_entry(path, "9.0", {**entry, "layers": lines()[1:]}))
    table = json.loads(path.read_text())
    assert list(table) == ["7.5", "9.0"] and table["7.5"] == entry
    names = ("eager", "triton", "fused")
    assert measured.fastest((128, 1152, 32, 8, 8), 7.5, names, table) == "triton"
    assert measured.fastest((128, 32, 32, 8, 8), 7.5, names, table) == "eager"
    assert measured.tuned((32, 8, 8), 7.5, "iteration", table) == lines()[0]["blocks"]["iteration"]
    assert measured.tuned((32, 8, 8), 9.0, "iteration", table) == {}
    again = layers.with_entry(path, "7.5", {**entry, "gpu": "another"})
    assert json.loads(again) == {**table, "7.5": {**entry, "gpu": "another"}}
    assert json.loads(layers.with_entry(layers.ASSET, "1.0", entry)) == {
        "1.0": entry,
        **json.loads(layers.ASSET.read_text()),
    }


def test_block_sizes_that_are_tried_can_run():
    pytest.importorskip("triton", reason="Triton is not installed: PyTorch's CUDA builds bring it")
    for sizes in layers.TUNED:
        for kernel in layers.KERNELS:
            first = next(layers.options("cpu", sizes, kernel))
            for vary in (layers.rows_and_warps, layers.stages_and_precision):
                tried = layers.fitting("cpu", sizes, kernel, vary(first, sizes[0]))
                assert tried[0] == first or vary is layers.stages_and_precision
                assert len(set(tried)) == len(tried) > 0
                for one in tried:
                    assert math.log2(one.rows).is_integer() and math.log2(one.warps).is_integer()
                    assert one.rows < 2 * sizes[0] and 1 <= one.warps <= 16
                    assert one.precision == "ieee" or one.rows >= 16


def test_the_sizes_are_twenty_with_those_of_the_networks():
    assert len(layers.SIZES) == len(set(layers.SIZES)) == 20
    assert {(128, I, J, E, D) for I, D, J, E in LAYER_SIZES.values()} < set(layers.SIZES)
    assert (33, 100, 16, 16) in [sizes[1:] for sizes in layers.SIZES]


def test_auto_is_compared_with_the_faster_baseline(tmp_path):
    def times(cases):
        seconds = {"auto": 3.0, "materialised": 2.0, "compiled": 4.0}
        rows = [{"case": case, "name": name, "median": s} for case in cases for name, s in seconds.items()]
        rows[0]["median"] = 5.0
        return Bench("routing", {}, rows, {}, {}, {}, "", [])

    work = job.Job("routing", "cuda", tmp_path, 60.0, hardware={"gpu": "made up"})
    measurements.compare_auto(work, times(list(LAYER_SIZES)[1:]))
    assert work.figures == {} and "2.50" in work.notes[0] and "1.50" in work.notes[0]
    measurements.compare_auto(work, times(LAYER_SIZES))
    assert work.figures == {"auto_over_best": 2.5}
    kept = json.loads(job.report_path(tmp_path, "routing").read_text())
    assert kept == {"figures": work.figures, "notes": work.notes, "hardware": {"gpu": "made up"}}


@pytest.mark.parametrize(
    ("said", "memory", "reason"),
    [
        ("17, 512\n4711, 1024\n", 2**30, ""),
        ("17, 512\n", None, "1 rows name no process with this one's number"),
        ("", None, "0 rows name no process"),
        ("4711, [N/A]\n", None, r"it says \[N/A\] of this process"),
        (subprocess.TimeoutExpired("nvidia-smi", 10), None, "TimeoutExpired"),
    ],
)
def test_memory_that_nvidia_smi_shows(said, memory, reason, monkeypatch):
    def ask(*_, **__):
        if isinstance(said, Exception):
            raise said
        return SimpleNamespace(stdout=said)

    monkeypatch.setattr(measurements.shutil, "which", lambda _: "nvidia-smi")
    found, why = measurements.process_memory(4711, ask)
    assert found == memory and (not why if memory else re.search(reason, why))
    monkeypatch.setattr(measurements.shutil, "which", lambda _: None)
    assert measurements.process_memory(4711, ask) == (
        None,
        "nvidia-smi: not measured, it is not installed here",
    )


def test_bits_that_differ_are_counted():
    first = {"a": torch.zeros(3), "n": torch.tensor(5)}
    second = {"a": torch.tensor([0.0, -0.0, 2.0]), "n": torch.tensor(4)}  # a sign, an exponent, a last bit
    assert training.differing_bits(first, first) == 0
    assert training.differing_bits(first, second) == 3


def test_images_have_the_sizes_of_the_data_sets():
    digits, pixels = training.mnist_images(12_000), training.cifar_images(100)
    assert digits.image_shape == (1, 28, 28) and (len(digits.train), len(digits.test)) == (12_000, 2_000)
    assert torch.equal(digits.train.images[:5000], digits.train.images[5000:10_000])
    assert pixels.image_shape == (3, 32, 32) and (len(pixels.train), len(pixels.test)) == (100, 20)
    assert len(digits.classes) == len(pixels.classes) == 10


def environment(folder):
    return {**os.environ, "OMP_NUM_THREADS": "1", "OUT": str(folder / "out")}


def tool(*arguments):
    return [sys.executable, str(gpu.ROOT / "tools" / "gpu.py"), *map(str, arguments)]


def test_a_rehearsal_on_the_cpu(tmp_path):
    """Some of its parts; each goal that they have to measure has a figure, and none is said to be a GPU's."""
    pytest.importorskip("triton", reason="Triton is not installed: PyTorch's CUDA builds bring it")
    before = layers.ASSET.read_bytes()
    command = tool("--device", "cpu", "--only", "mnist,tuner,bits", "--folder", tmp_path / "work")
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert layers.ASSET.read_bytes() == before
    with zipfile.ZipFile(tmp_path / "out" / "gpu-rehearsal.zip") as archive:
        files = {name.removeprefix("gpu-rehearsal/"): archive.read(name) for name in archive.namelist()}
    assert {"gpu-rehearsal.md", "gpu-routing-rehearsal.json", "logs/bits.log"} <= set(files)
    figures = {}
    for part in ("mnist", "tuner", "bits"):
        figures |= json.loads(files[f"parts/{part}.json"])["figures"]
    for goal in gpu.GOALS:
        assert (goal.figure in figures) == (goal.part in ("mnist", "tuner", "bits")), goal
    assert figures["same_seed_bits"] == figures["resumed_bits"] == 0
    table = json.loads(files["gpu-routing-rehearsal.json"])
    (line,) = table["0.0"]["layers"]
    assert table["0.0"]["source"].startswith("REHEARSAL on a CPU")
    assert set(line["ms"]) == set(layers.BACKENDS) and set(line["blocks"]) == set(layers.KERNELS)
    page = files["gpu-rehearsal.md"].decode()
    assert gpu.REHEARSAL in page and "reached" not in page and "missed" not in page
    assert page.count("| rehearsal |") == len(gpu.GOALS) and gpu.REHEARSAL in done.stdout
    assert page.count("not measured: its part has not run") == 3


@posix
def test_a_check_that_is_stopped_packs_what_it_has(tmp_path):
    fake = f"import gpu; gpu.command = lambda *a: {[sys.executable, '-S', '-c', HANGS, str(tmp_path)]!r}; "
    command = [sys.executable, "-c", f"{fake}gpu.typer.run(gpu.main)", "--folder", str(tmp_path / "work")]
    paths = os.pathsep.join([str(gpu.ROOT), str(gpu.ROOT / "tools")])
    variables = {**environment(tmp_path), "PYTHONPATH": paths}
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "pids").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and "packed: " in said
    assert ended(tmp_path / "pids")
    with zipfile.ZipFile(tmp_path / "out" / "gpu.zip") as archive:
        assert "gpu/gpu.md" in archive.namelist()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"only": "kernels,nothing"}, "unknown part 'nothing'"), ({"device": "tpu"}, 'device is "tpu"')],
)
def test_what_cannot_be_asked_is_refused(arguments, said):
    with pytest.raises(typer.BadParameter, match=said):
        gpu.main(**arguments)
