"""Windows, as far as another system can play it: what Python lacks there, its letters, its names of files.

Nothing here has run on Windows. Python is started without what it does not have there, with a console of 256 letters,
without a C++ compiler, in a folder with spaces and umlauts; and, as on a bare server, in the locale C.
"""

import os
import re
import subprocess
import sys
from pathlib import Path, PurePath

import numpy as np
import pytest
import torch
from PIL import Image

from capsnb import RoutingCapsules, load_data
from capsnb.experiments import RunResult
from capsnb.experiments.studies import STUDIES
from capsnb.files import results
from capsnb.kernels import native

ROOT = Path(__file__).parents[1]
CLASSES = ("Käse × 2", "α→β")  # the second is not in Windows' 256 letters
MISSING = """
import os, signal, sys
os_names = "fork forkpty getuid geteuid getgid O_DIRECTORY O_NOFOLLOW fchmod chown killpg setsid mkfifo getpgid wait4"
signal_names = "SIGKILL SIGHUP SIGALRM SIGUSR1 SIGUSR2 SIGQUIT"
for module, names in ((os, os_names), (signal, signal_names)):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
"""


class Machine:
    """A folder, and a Python that starts there as on Windows; its processes start theirs likewise."""

    def __init__(self, folder: Path, locale: str) -> None:
        self.name = "größe" if locale.endswith("UTF-8") else "groesse"
        self.folder = folder / "Eigene Dateien" / self.name
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(MISSING, encoding="utf-8")
        random = np.random.RandomState(0)
        for part, count in (("train", 8), ("test", 4)):
            for name in CLASSES:
                place = self.folder / "pets" / part / name
                place.mkdir(parents=True)
                for number in range(count):
                    pixels = random.randint(0, 255, (28, 28)).astype(np.uint8)
                    Image.fromarray(pixels).save(place / f"{number}.png")
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
            "CXX": "no-such-compiler",
            "CAPSNB_CACHE": str(folder / "cache"),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "LC_ALL": locale,
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONIOENCODING": "cp1252",
        }

    def start(self, program: str, **more: str) -> subprocess.Popen[str]:
        """Start a program; its output is in the letters of Windows."""
        (self.folder / "program.py").write_text(program, encoding="utf-8")
        return subprocess.Popen(
            [sys.executable, "-X", "warn_default_encoding", "program.py"],
            cwd=self.folder,
            env=self.environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="cp1252",
        )

    def run(self, program: str) -> tuple[str, str]:
        """What a program says, and what it complains about."""
        process = self.start(program)
        said, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert not re.search(r"capsnb[/\\].*EncodingWarning", errors), errors
        return said, errors


@pytest.fixture(scope="module", params=["C.UTF-8", "C"])
def machine(request, tmp_path_factory):
    return Machine(tmp_path_factory.mktemp("windows"), request.param)


COMMAND_LINE = """
import sys
from capsnb.cli import main
small = ["--channels", "4", "--capsule-types", "1"]
train = ["train", "runs/NAME", "--data", "folder:pets", "--epochs", "1", *small]
commands = [
    ["--help"], ["train", "--help"], train, train, ["evaluate", "runs/NAME"], ["compare", "runs/NAME"],
    ["data", "mnist5k"], ["memory", "--model", "mocapsnet", *small], ["reproduce", "--list"],
    ["reproduce", "table1", "--list"], ["bench", "routing", "--help"], ["doctor"],
    ["train", "runs/other", "--data", "folder:γ"],
]
for command in commands:
    sys.argv = ["capsnb", *command]
    try:
        main()
    except SystemExit as done:
        print(f"== {command[0]} {done.code or 0}")
"""


def test_every_command_ends_well_in_256_letters(machine):
    """In their order, since one needs what another wrote; text of files and pipes is UTF-8 wherever it is ours."""
    said, errors = machine.run(COMMAND_LINE.replace("NAME", machine.name))
    parts = re.split(r"^== (\w+|--help) (\d+)$", said, flags=re.MULTILINE)
    texts, names, codes = parts[::3], parts[1::3], parts[2::3]
    assert codes == ["0"] * (len(codes) - 1) + ["2"] and len(codes) == 13, said + errors
    assert "Traceback" not in errors
    found = dict(zip(names[:-1], texts, strict=False))
    assert all(text.strip() for text in found.values())
    assert "Käse × 2: precision" in found["evaluate"]
    assert r"\u03b1\u2192\u03b2: precision" in found["evaluate"]
    assert "plain PyTorch" in found["doctor"] and "FAILED" not in found["doctor"]
    page = (machine.folder / "comparison" / "comparison.html").read_text(encoding="utf-8")
    assert all(name in page for name in CLASSES)
    assert RunResult.load(machine.folder / "runs" / machine.name).evaluation.classes == CLASSES
    assert re.search(r"capsnb: there is no folder \\u03b3.train", errors), errors[-500:]


GUARDED = """
from capsnb import TrainConfig
from capsnb.experiments import STUDIES, Run, reproduce

def tiny():
    sizes = {"image_shape": [1, 28, 28], "channels": 4, "capsule_types": 1}
    for seed in (0, 1):
        config = TrainConfig(epochs=1, batch_size=100, seed=seed)
        yield Run("tiny", f"seed{seed}", "CapsNet", sizes, config, images=100)

STUDIES["tiny"] = tiny
if __name__ == "__main__":
    print(reproduce("tiny", "ergebnisse", workers=2, progress=False))
"""


@pytest.mark.parametrize("machine", ["C.UTF-8"], indirect=True)
def test_workers_start_anew_and_import_a_guarded_program(machine):
    """There is no fork: a worker is a Python of its own, which imports the program that started it."""
    said, _ = machine.run(GUARDED)
    assert said.strip() == "0"
    assert len(list((machine.folder / "ergebnisse" / "tiny").glob("*.json"))) == 2


PROCESSES = """
from capsnb import distributed

def whose_rows():
    distributed.init()
    rows = distributed.shard(31)
    messages = distributed.all_gather(f"process {distributed.rank()}: rows {rows.start} to {rows.stop - 1}")
    if distributed.rank() == 0:
        print("; ".join(messages))
    distributed.shutdown()

if __name__ == "__main__":
    whose_rows()
"""


@pytest.mark.parametrize("machine", ["C.UTF-8"], indirect=True)
def test_processes_of_chapter_16_find_each_other(machine):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    started = [machine.start(PROCESSES, RANK=rank, LOCAL_RANK=rank, **address) for rank in ("0", "1")]
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert said[0][0].strip() == "process 0: rows 0 to 15; process 1: rows 16 to 30"


def test_without_a_compiler_layers_compute_the_same(monkeypatch):
    layer, u = RoutingCapsules(64, 8, 10, 16), torch.rand(32, 64, 8)
    expected = layer(u)
    monkeypatch.setenv("CXX", "no-such-compiler")
    native.library.cache_clear()
    try:
        torch.testing.assert_close(layer(u), expected)
        layer.backend = "native"
        with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler .*; use 'fused'"):
            layer(u)
    finally:
        native.library.cache_clear()


def test_classes_and_images_have_the_order_of_every_other_system(tmp_path, monkeypatch):
    """Windows compares paths without regard to case; labels and fingerprints would be others than on Linux."""
    for part in ("train", "test"):
        for name in ("Zebra", "ape", "ähnlich"):
            (tmp_path / part / name).mkdir(parents=True)
            for number, file in enumerate(("B.png", "a.png")):
                Image.new("L", (1, 1), number).save(tmp_path / part / name / file)
    here = load_data(f"folder:{tmp_path}")
    assert here.classes == ("Zebra", "ape", "ähnlich")
    assert here.train.images.flatten().tolist() == [0, 1] * 3
    monkeypatch.setattr(PurePath, "__lt__", lambda a, b: str(a).casefold() < str(b).casefold())
    assert sorted([Path("B"), Path("a")]) == [Path("a"), Path("B")]
    there = load_data(f"folder:{tmp_path}")
    assert (there.classes, there.fingerprint) == (here.classes, here.fingerprint)


FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]|[. ]$|^(?i:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)')


def test_names_of_runs_are_names_of_files():
    for study, make in STUDIES.items():
        names = [study, *(f"{run.name}.json" for run in make())]
        assert not [name for name in names if FORBIDDEN.search(name)]
        assert len({name.lower() for name in names}) == len(set(names)), "two names that differ in case only"


def test_files_of_the_repository_are_files_of_windows():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8")
    if listed.returncode:
        pytest.skip("this is no repository of git: what it holds is not known")
    files = listed.stdout.strip("\0").split("\0")
    assert not [file for file in files if any(map(FORBIDDEN.search, file.split("/")))]
    assert len({file.lower() for file in files}) == len(files)
    longest = max(map(len, files), default=0)
    assert longest < 100, "of 260 letters of a path, the folder of the repository needs some"


def test_what_is_read_may_have_ends_of_lines_of_windows(tmp_path):
    """A checkout may have them, if git was told so; `.gitattributes` tells it not to."""
    stored = next(results().glob("*/*.json"))
    again = tmp_path / stored.name
    again.write_bytes(stored.read_bytes().replace(b"\n", b"\r\n"))
    assert RunResult.load(again) == RunResult.load(stored)
    asked = ["git", "check-attr", "eol", "--", "capsnb/kernels/routing.cpp", "book/index.md"]
    told = subprocess.run(asked, cwd=ROOT, capture_output=True, encoding="utf-8")
    if told.returncode == 0:
        assert re.findall(r"eol: (\S+)", told.stdout) == ["lf", "lf"]
