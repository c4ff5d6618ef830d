"""Rename what measurements in results/ call by an older name: python tools/migrate_bench.py [FOLDER].

Version 0.2 renamed a measurement, columns, cases and implementations. Figures, machine, versions and date of a file
stay as they were measured. Its command line is written as it is typed today. A second run changes nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from capsnb.bench import Bench, depth, inversion_error, routing_backends, scaling, training_step
from capsnb.files import results

MEASUREMENTS = {"processes": "scaling"}
COLUMNS = {
    "times_floor": "times_baseline",
    "accounted": "states_and_saved",
    "device": "gpu_used",
    "broken": "non_finite",
    "recovered": "inversion_error",
    "exchanged": "all_reduced",
}
NAMES = {
    "MoCapsNet, remembered": "MoCapsNet, autograd",
    "each for itself": scaling.INDEPENDENT,
    "together, a batch each": scaling.WEAK,
    "together, one batch": scaling.STRONG,
}
CASES = {"a tenth of them": "weights times 0.1"}  # the end of a case
MEANINGS = (
    routing_backends.ROUTING_COLUMNS,
    routing_backends.MEMORY_COLUMNS,
    training_step.STEP_COLUMNS,
    depth.DEPTH_COLUMNS,
    inversion_error.GRADIENT_COLUMNS,
    scaling.SCALING_COLUMNS,
)


def rename_columns(columns: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Rename columns, and describe them as the code describes them today."""
    names = [COLUMNS.get(name, name) for name in columns]
    (known,) = (meanings for meanings in MEANINGS if set(names) <= set(meanings))
    return {name: dict(zip(("unit", "meaning"), known[name], strict=True)) for name in names}


def rename_line(line: dict[str, Any]) -> dict[str, Any]:
    """Rename the columns, the name and the case of a line."""
    line = {COLUMNS.get(name, name): value for name, value in line.items()}
    line["name"] = NAMES.get(line["name"], line["name"])
    for old, new in CASES.items():
        if line["case"].endswith(old):
            line["case"] = line["case"].removesuffix(old) + new
    return line


def migrate(path: Path) -> Path:
    """Rename in one file; a file of a renamed measurement gets another name.

    Args:
        path: a file that `Bench.save` wrote.

    Returns:
        The file that was written.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    old = found["what"]
    found["what"] = new = MEASUREMENTS.get(old, old)
    found["columns"] = rename_columns(found["columns"])
    found["lines"] = [rename_line(line) for line in found["lines"]]
    found["command"] = [MEASUREMENTS.get(word, word) for word in found["command"]]
    target = path.with_name(path.name.replace(f"bench-{old}", f"bench-{new}", 1))
    Bench(**found).save(target)
    if target != path:
        path.unlink()
    return target


def main(arguments: list[str]) -> None:
    """Migrate every measurement of a folder."""
    folder = Path(arguments[0]) if arguments else results()
    for path in sorted(folder.glob("bench-*.json")):
        print(migrate(path).name)


if __name__ == "__main__":
    main(sys.argv[1:])
