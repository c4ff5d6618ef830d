"""Results of capsnb 0.1 take the studies' new names: once, without loss, and never over another result."""

import json
import shutil

import pytest
from migrate_results import RENAMED, migrate

from capsnb import files
from capsnb.experiments import STUDIES, RunResult


def as_it_was(folder, new):
    """A copy of one of the project's results under the study's old name, and its record."""
    (old,) = (old for old, name in RENAMED.items() if name == new)
    source = sorted((files.results() / "head-ablation").iterdir())[0]
    record = json.loads(source.read_bytes())
    record["run"]["study"] = old
    path = folder / old / source.name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record) + "\n")
    return path, record


@pytest.mark.parametrize("new", RENAMED.values())
def test_only_the_name_of_the_study_changes(tmp_path, new):
    path, record = as_it_was(tmp_path, new)
    shutil.copytree(files.results() / "collapse", tmp_path / "collapse")
    others = {other: other.read_bytes() for other in (tmp_path / "collapse").iterdir()}
    (moved,) = migrate(tmp_path)
    assert moved == tmp_path / new / path.name and not path.parent.exists()
    record["run"]["study"] = new
    assert json.loads(moved.read_bytes()) == record
    assert RunResult.load(moved).run.study == new and new in STUDIES
    assert {other: other.read_bytes() for other in (tmp_path / "collapse").iterdir()} == others
    before = moved.stat().st_mtime_ns
    assert migrate(tmp_path) == [] and moved.stat().st_mtime_ns == before


def test_files_that_come_later_join_those_that_are_there(tmp_path):
    as_it_was(tmp_path, "head-ablation")
    (first,) = migrate(tmp_path)
    before = first.read_bytes()
    as_it_was(tmp_path, "head-ablation")
    assert migrate(tmp_path) == [first] and first.read_bytes() == before, "the same result, once more"
    other, record = as_it_was(tmp_path, "head-ablation")
    other.write_text(json.dumps(record | {"seconds": 1.0}) + "\n")
    with pytest.raises(FileExistsError, match="two results of one run"):
        migrate(tmp_path)
    assert other.exists() and first.read_bytes() == before


def test_what_is_no_result_stays_where_it_is(tmp_path):
    path, _ = as_it_was(tmp_path, "head-ablation")
    path.write_text("[]")
    with pytest.raises(ValueError, match="is not a result of the study heads"):
        migrate(tmp_path)
    assert path.read_text() == "[]"
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder of results"):
        migrate(tmp_path / "nowhere")
