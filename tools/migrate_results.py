"""Rename what capsnb 0.1 called otherwise in a folder of results: `python tools/migrate_results.py FOLDER`.

FOLDER holds a folder for each study. If a study has a new name, its files move to a folder of that name, and the name
in them changes. Nothing else does: the command stays as it was typed. A second call changes nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from capsnb.files import write_atomically

RENAMED = {
    "heads": "head-ablation",
    **{f"table{number}-awake": f"table{number}-trainable" for number in (1, 2, 3, 5)},
}


def migrate(folder: Path) -> list[Path]:
    """Move the files of renamed studies.

    Args:
        folder: holds a folder for each study.

    Returns:
        The new paths.

    Raises:
        FileNotFoundError: there is no such folder.
        FileExistsError: the study has another result for the same run under its new name; nothing of it was changed.
        ValueError: a file is not a result of the study whose folder it is in.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder of results")
    moved = []
    for old, new in RENAMED.items():
        for path in sorted((folder / old).glob("*.json")):
            result = json.loads(path.read_bytes())
            if not isinstance(result, dict) or result.get("run", {}).get("study") != old:
                raise ValueError(f"{path} is not a result of the study {old}")
            result["run"]["study"] = new
            text, target = json.dumps(result, allow_nan=False) + "\n", folder / new / path.name
            if target.exists() and target.read_text(encoding="utf-8") != text:
                raise FileExistsError(f"{path} and {target} are two results of one run: delete one of them")
            write_atomically(target, text)
            path.unlink()
            moved.append(target)
        if (folder / old).is_dir() and not any((folder / old).iterdir()):
            (folder / old).rmdir()
    return moved


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    try:
        for place in (migrated := migrate(Path(sys.argv[1]))):
            print(place)
        print(f"{len(migrated)} files moved")
    except (OSError, ValueError) as error:
        raise SystemExit(f"migrate_results: {error}") from None
