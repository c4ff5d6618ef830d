"""The parts of the project that must say the same, and the direction of the package's imports."""

import ast
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import lines
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "seaborn": "seaborn-base"}


def floors() -> dict[str, int]:
    """The picture in CONTRIBUTING.md: each room of the package and the floor that it is on, counted from below."""
    picture = re.search(
        r"^```floors\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S | re.M
    )
    assert picture is not None
    rows = [row.split() for row in reversed(picture[1].splitlines())]
    rooms = [room for row in rows for room in row]
    assert len(rooms) == len(set(rooms)), "a room stands in the picture twice"
    return {room: floor for floor, row in enumerate(rows) for room in row}


FLOORS = floors()


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
    return rooms & set(FLOORS)  # `from capsnb import squash` names no room


def room_of(source: Path) -> str:
    return source.relative_to(ROOT / "capsnb").parts[0].removesuffix(".py")


SOURCES = sorted((ROOT / "capsnb").rglob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_floors_below(source):
    room = room_of(source)
    assert room in FLOORS, "a new room: give it a place in the picture in CONTRIBUTING.md"
    above = {other for other in imported_rooms(source) - {room} if FLOORS[other] >= FLOORS[room]}
    assert not above, (
        f"{room} must not import {above}: they are not below it in the picture in CONTRIBUTING.md"
    )


def test_the_picture_shows_the_rooms_that_there_are():
    assert set(FLOORS) == {room_of(source) for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_do_not_import_the_whole_package(source):
    """`import capsnb`, or a name that capsnb hands on, would hide which room is needed."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert "capsnb" not in {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "capsnb":
            assert {alias.name for alias in node.names} <= set(FLOORS) - {"__init__"}


def imported_with_the_module(node: ast.AST) -> Iterator[str]:
    """The full names that a file imports when it is imported itself: all but those inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from imported_with_the_module(child)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_import_nothing_private_of_pytorch(source):
    """Private modules of PyTorch change without notice; a function that needs one imports it itself."""
    names = set(imported_with_the_module(ast.parse(source.read_text(encoding="utf-8"))))
    private = {name for name in names if name.startswith("torch.") and "._" in name}
    assert not private


def test_version_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    import capsnb

    assert PROJECT["dynamic"] == ["version"] and SETTINGS["tool"]["hatch"]["version"] == {
        "path": "capsnb/_version.py"
    }
    assert citation["version"] == newest[1] == capsnb.__version__


def everything(extra: str) -> list[Requirement]:
    """An extra's requirements, with those of the extras that it names."""
    found = []
    for requirement in requirements(extra).values():
        if requirement.name == PROJECT["name"]:
            found += [other for name in requirement.extras for other in everything(name)]
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("system", ["linux", "darwin"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_lock_holds_what_make_installs(python, system):
    """One version of each package, with hashes, and one that pyproject.toml allows."""
    machine = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": system}
    locked: dict[str, str] = {}
    for line in re.findall(r"^\w.*", LOCK, re.MULTILINE):
        assert line.endswith(" \\"), f"no hashes: {line}"
        requirement = Requirement(line.removesuffix("\\"))
        if requirement.marker is None or requirement.marker.evaluate(machine):
            assert requirement.name not in locked, f"two versions of {requirement.name}"
            locked[requirement.name] = str(requirement.specifier).removeprefix("==")
    backend = map(Requirement, SETTINGS["build-system"]["requires"])
    for wanted in [*requirements().values(), *everything("all"), *backend]:
        version = locked.get(canonicalize_name(wanted.name))
        assert version and wanted.specifier.contains(version), f"{wanted} beside {version}: run `make lock`"


def test_lock_holds_no_address():
    """Where packages come from is a matter of the machine that installs them."""
    assert re.search(r"://|^-", LOCK, re.MULTILINE) is None


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
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
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
        pytest.skip("this folder is no git checkout: clone the repository")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_readme_counts_the_lines_that_there_are():
    rooms = lines.count()
    counted = [sum(rooms[room] for room in lines.CORE), sum(rooms.values())]
    stated = re.search(
        r"([\d,]+) lines of code, of ([\d,]+) in all", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    assert stated is not None
    assert [int(number.replace(",", "")) for number in stated.groups()] == [round(n, -2) for n in counted]


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
