"""Data flows one way: every module imports from lower layers only, and importing the package loads no torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import slatewise

ROOT = Path(slatewise.__file__).parent
ROOMS = [
    ["errors", "allocation", "plain"],
    ["checks", "tables", "arrow", "batch"],
    ["interactions", "constraints"],
    [
        "choice", "history", "returns", "linear", "noise", "settings", "progress", "output", "estimators", "networks",
        "aggregates", "registry", "documents", "cache", "ridges", "explanations", "metrics", "features", "mazes",
        "cascades", "indexes",
    ],
    ["slates", "drawing", "fitting", "sums", "linear_models", "whole_slates", "item_space"],
    ["policies", "distributions", "retrieval", "online_fitting"],
    ["environments", "agents", "logs", "off_policy", "constrained"],
    ["evaluation", "runs", "naming", "sessions", "ceilings", "feed_optimum"],
    ["training", "learning", "judging", "testing", "plots", "gym", "maze_pictures"],
    ["reports"],
    ["demo", "watch", "judgement_page"],
    ["cli"],
    ["__main__"],
    ["slatewise"],  # the package's own __init__, which nothing inside may import
]  # fmt: skip
LAYER = {room: layer for layer, rooms in enumerate(ROOMS) for room in rooms}
MEMBERS = {"environments", "agents"}  # folders of one file a member: these share nothing but
SHARED = {"base", "replay", "bandit", "bandit_sums", "policy_gradient", "long_term"}


def modules_of(root: Path) -> set[str]:
    """Return the dotted names of all modules and folders below a package, without its own name."""
    paths = [path.relative_to(root).with_suffix("") for path in root.rglob("*.py")]
    files = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    folders = {".".join(path.parts[:-1]) for path in paths}
    return (files | folders) - {"", "__init__"}


def imports(tree: ast.Module, module: str, is_folder: bool, known: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name, within the package, of everything that a module imports from the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ["slatewise", *module.split(".")] if module else ["slatewise"]
            up = package[: len(package) - node.level + is_folder] if node.level else []
            start = ".".join([*up, *([node.module] if node.module else [])])
            inside = (f"{start}.{alias.name}" for alias in node.names)
            names = [name if name.removeprefix("slatewise.") in known else start for name in inside]
        else:
            continue
        for name in names:
            if name == "slatewise" or name.startswith("slatewise."):
                yield node.lineno, name.removeprefix("slatewise").removeprefix(".")


def problem(importer: str, imported: str, by_folder: bool) -> str | None:
    """Return what is wrong with one import, or None."""
    room, other = (importer.split(".")[0] or "slatewise"), (imported.split(".")[0] or "slatewise")
    for name in (room, other):
        if name not in LAYER:
            return f"{name!r} is in no layer: add it to ROOMS in tests/test_layers.py and to docs/architecture.md"
    if LAYER[other] < LAYER[room]:
        return None
    if room == other and room != "slatewise":
        if imported == room:
            return f"files of {room} import each other, not the folder that gathers them"
        allowed = by_folder or room not in MEMBERS or imported.split(".")[-1] in SHARED
        return None if allowed else f"files of {room} import only what its members share: {', '.join(sorted(SHARED))}"
    return f"layer {LAYER[room]} ({room}) imports from layer {LAYER[other]} ({other})"


def problems(root: Path) -> list[str]:
    known, found = modules_of(root), []
    for path in sorted(root.rglob("*.py")):
        is_folder = path.name == "__init__.py"
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix("__init__").removesuffix(".")
        tree = ast.parse(path.read_text())
        if module and module.split(".")[0] not in LAYER:
            found.append(f"{path.name}: {problem(module, module, is_folder)}")
        for line, name in dict.fromkeys(imports(tree, module, is_folder, known)):
            wrong = problem(module, name, is_folder)
            if wrong:
                found.append(f"{path.relative_to(root)}:{line} imports {name or 'slatewise'}: {wrong}")
    return found


def test_imports_go_down() -> None:
    assert not problems(ROOT), "\n".join(problems(ROOT))


def test_no_two_modules_import_each_other() -> None:
    known = modules_of(ROOT)
    graph: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix(".")
        tree = ast.parse(path.read_text())
        graph[module] = {name for _, name in imports(tree, module, path.name == "__init__.py", known)} - {module}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other: {' → '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("choice.py", "import os\nfrom slatewise.slates import top_k", "choice.py:2 imports slates: layer 3"),
        ("choice.py", "from slatewise import slates", "choice.py:1 imports slates"),
        ("choice.py", "from .slates import top_k", "choice.py:1 imports slates"),
        ("choice.py", "import slatewise as sw", "choice.py:1 imports slatewise"),
        ("slates.py", "def f():\n    import slatewise.agents.base", "slates.py:2 imports agents.base"),
        ("history.py", "from slatewise.returns import Mean", "history.py:1 imports returns: layer 3"),
        ("agents/one.py", "from slatewise.environments.base import Environment", "imports environments.base: layer 6"),
        ("agents/one.py", "from slatewise.agents.base import Agent\nfrom .two import Two", "agents/one.py:2 imports"),
        ("agents/one.py", "from slatewise.agents import Two", "agents/one.py:1 imports agents: files of agents"),
        ("surprise.py", "", "'surprise' is in no layer: add it to ROOMS"),
        ("cli.py", "from slatewise.surprise import x", "'surprise' is in no layer"),
    ],
)  # fmt: skip
def test_a_forbidden_import_is_named(tmp_path: Path, path: str, source: str, words: str) -> None:
    for name in ("slates.py", "returns.py", "agents/__init__.py", "agents/base.py", "agents/two.py", path):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source if name == path else "")
    found = problems(tmp_path)
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("agents/one.py", "from slatewise.agents.base import Agent\nfrom .replay import Replay"),
        ("agents/__init__.py", "from slatewise.agents.one import One\nfrom .two import Two"),
        ("slates.py", "from slatewise import choice\nfrom slatewise.errors import InputError\nimport torch"),
        ("__init__.py", "from slatewise.cli import main"),
        ("cli.py", "from slatewise import slates"),
    ],
)
def test_a_proper_import_is_not(tmp_path: Path, path: str, source: str) -> None:
    for name in ("slates.py", "choice.py", "agents/__init__.py", "agents/one.py", "agents/replay.py", path):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source if name == path else "")
    assert problems(tmp_path) == []


HEAVY = ("torch", "numpy", "pyarrow", "pydantic", "matplotlib", "typer", "jinja2", "gymnasium")


def in_a_fresh_process(source: str) -> str:
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = in_a_fresh_process(f"import sys, slatewise; print([m for m in {HEAVY} if m in sys.modules])")
    assert loaded == "[]"


def test_names_load_on_use_without_touching_the_process() -> None:
    source = (
        "import sys, slatewise as sw, torch\n"
        "threads, state = torch.get_num_threads(), torch.get_rng_state()\n"
        "missing = [name for name in sw.__all__ if not hasattr(sw, name)]\n"
        "missing += sorted(set(dir(sw)) ^ set(sw.__all__))\n"
        "print(missing, torch.get_num_threads() == threads, torch.equal(torch.get_rng_state(), state))"
    )
    assert in_a_fresh_process(source) == "[] True True"


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'slateq'"):
        _ = slatewise.slateq
