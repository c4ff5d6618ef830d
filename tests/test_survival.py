"""The quick form of `tools/survive.py`: runs that are killed, full disks, damaged files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "survive.py"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="children are forked")


def survive(folder, **counts):
    """Try the named parts alone; return what became of them."""
    parts = ("kills", "kills-of-two", "full-disks", "damaged-inputs", "settings")
    numbers = [f"--{part}={counts.get(part.replace('-', '_'), 0)}" for part in parts]
    out = folder / "survival.json"
    done = subprocess.run(
        [sys.executable, str(TOOL), *numbers, f"--out={out}"], capture_output=True, text=True, check=False
    )
    assert out.exists(), done.stderr
    found = json.loads(out.read_text())["parts"]
    assert {part.replace("-", "_"): line["tried"] for part, line in found.items()} == counts
    assert done.returncode == any(line["lost"] for line in found.values())
    return {part: line["what_was_lost"] for part, line in found.items() if line["lost"]}


@pytest.mark.parametrize(
    "counts", [{"kills": 6}, {"kills_of_two": 2}, {"full_disks": 4}, {"damaged_inputs": 46}], ids=str
)
def test_nothing_is_lost(tmp_path, counts):
    assert survive(tmp_path, **counts) == {}


BROKEN = """
import sys, zipfile
sys.path.insert(0, sys.argv[1])
zipfile.ZipFile.testzip = lambda archive: None
import random
from survival import damage
from survival.processes import folder
with folder() as place:
    kind = next(kind for kind in damage._kinds(place) if kind.name == "checkpoint.pt, evaluate")
    whole = damage._copy(kind, place)
    expected = kind.what(whole, damage.Child(kind.work(whole)).end(30))
    chance = random.Random(0)
    lost = [damage._try(kind, expected, damage._copy(kind, place), chance) for _ in range(12)]
print(sum(not outcome.survived for outcome in lost))
"""


def test_the_tool_sees_a_loss():
    """Without the checksums of checkpoints, damaged weights are taken for whole ones."""
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, str(TOOL.parent)], capture_output=True, text=True, check=False
    )
    assert int(done.stdout) > 0, done.stderr
