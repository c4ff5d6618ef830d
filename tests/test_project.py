"""The parts of the project that must say the same, and the direction of the package's imports."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "seaborn": "seaborn-base"}

# Each room may import the rooms before it, never one after it.
ROOMS = [
    *(
        "_version",
        "files",
        "compat",
        "tables",
        "functional",
        "routing",
        "kernels",
        "layers",
        "reversible",
        "backbones",
    ),
    *("models", "losses", "preprocess", "data", "distributed", "training", "evaluation", "plots", "notebook"),
    *("profiling", "memory", "bench", "experiments", "checks", "cli", "__init__", "__main__"),
]


def requirements(extra: str | None = None) -> dict[str, Requirement]:
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def imported_rooms(source: Path) -> set[str]:
    """The rooms of capsnb that a file imports anywhere, also inside functions and for types only."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source.name}: relative import in line {node.lineno}"
            module = node.module or ""
            names |= {f"capsnb.{alias.name}" for alias in node.names} if module == "capsnb" else {module}
    rooms = {name.split(".")[1] for name in names if name.startswith("capsnb.")}
    return rooms & set(ROOMS)  # `from capsnb import squash` names no room


def room_of(source: Path) -> str:
    return source.relative_to(ROOT / "capsnb").parts[0].removesuffix(".py")


SOURCES = sorted((ROOT / "capsnb").rglob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(source):
    room = room_of(source)
    assert room in ROOMS, "a new room: give it a place in ROOMS and in CONTRIBUTING.md"
    back = {other for other in imported_rooms(source) - {room} if ROOMS.index(other) > ROOMS.index(room)}
    assert not back, f"{room} must not import {back}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_do_not_import_the_whole_package(source):
    """`import capsnb` inside capsnb would hide which room is needed."""
    tree = ast.walk(ast.parse(source.read_text(encoding="utf-8")))
    assert "capsnb" not in {
        alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names
    }


def test_importing_capsnb_is_light():
    """Libraries that only some functions need are imported by those functions."""
    heavy = "{'matplotlib', 'seaborn', 'sklearn', 'accelerate', 'typer', 'IPython', 'pandas'}"
    command = f"import sys, capsnb; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_version_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    import capsnb

    assert citation["version"] == PROJECT["version"] == capsnb.__version__


def test_conda_environment_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [line for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = (line["pip"] for line in environment["dependencies"] if isinstance(line, dict))
    assert pip[-1] == "--editable ."
    given = {r.name: r.specifier for r in map(Requirement, [*conda, *pip[:-1]])}
    wanted = {
        CONDA_NAMES.get(r.name, r.name): r.specifier for r in (requirements() | requirements("book")).values()
    }
    assert given.pop("python") == PROJECT["requires-python"]
    given.pop("pip")
    assert given == wanted


def test_repository_address_is_one():
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    address = settings["repository"]["url"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert address == citation["repository-code"] == PROJECT["urls"]["Repository"]
    named = re.compile(r"https://github\.com/[\w.-]+/capsnb")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "book").glob("*.md")]:
        assert set(named.findall(path.read_text(encoding="utf-8"))) <= {address}, path.name


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "book/how-to-use.md"])
def test_commands_that_documents_name_exist(name):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
    assert named and named <= targets
    for tool in re.findall(r"tools/\w+\.py", text):
        assert (ROOT / tool).is_file()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_to_files_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text) + re.findall(r'src="(?!https?:)([^"]+)"', text)
    assert [link for link in links if not (ROOT / link).exists()] == []


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_is_large():
    """A book in git stays small: data sets are downloaded, pictures are drawn as SVG inside the notebooks."""
    large = {
        str(path.relative_to(ROOT)): path.stat().st_size for path in tracked() if path.stat().st_size > 3e6
    }
    assert not large


def test_results_say_how_they_were_made():
    """Every measured file names its machine, versions and command."""
    for path in (ROOT / "results").rglob("*.json"):
        text = json.dumps(json.loads(path.read_text(encoding="utf-8")))
        for word in ("hardware", "versions", "command"):
            assert f'"{word}"' in text, f"{path.name} does not say its {word}"


def test_results_name_no_folder_of_a_machine():
    for path in (ROOT / "results").rglob("*.json"):
        found = re.search(r'"[^"]*/(?:tmp|root|home|Users|work|mnt)/[^"]*"', path.read_text(encoding="utf-8"))
        assert not found, f"{path.relative_to(ROOT)}: {found[0]}"
