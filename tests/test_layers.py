"""The arrows of documentation/architecture.md, read from every import statement of the package."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gdmnet"
TABLE = re.findall(
    r"^\| ([a-z, ]+) \| [^|]+ \| ([\d,]*) ?\|$",
    (ROOT / "documentation" / "architecture.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)
LAYER = {name: number for number, (names, _) in enumerate(TABLE) for name in names.split(", ")}
LAYER["__init__"] = 0
BUDGET = {names: int(most.replace(",", "")) for names, most in TABLE if most}
MAY_USE_TORCH = {
    "drifting",
    "networks",
    "encoders",
    "objectives",
    "models",
    "inference",
    "training",
    "compare",
}
MAY_USE_IN_DRIFTING = {"torch", "math", "gdmnet"}
MAY_USE_IN_ARRAYS = {"numpy", "scipy", "skimage", "acvl_utils", "cc3d", "gdmnet"}
VISIBLE = {"setup.py", "README.md", "LICENSE", "gdmnet", "tests", "documentation"}
LONGEST_BODY = 58


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else str(node.module))
    return found


def part(module: str) -> str:
    """The package or top-level module that a module belongs to: the unit of the layers."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else "__init__"


def standard(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in sys.stdlib_module_names}


IMPORTS = {module: imports(path) for module, path in MODULES.items()}
ARROWS = {
    module: {name for name in names if name.split(".")[0] == "gdmnet"}
    for module, names in IMPORTS.items()
}


def test_every_part_of_the_package_has_a_layer():
    parts = {part(module) for module in MODULES}
    assert parts <= set(LAYER)


def test_a_module_imports_only_from_its_own_layer_or_lower_ones():
    upward = [
        f"{module} -> {name}"
        for module, names in ARROWS.items()
        for name in names
        if LAYER[part(name)] > LAYER[part(module)]
    ]
    assert upward == []


def cycle_in(arrows: dict[str, set[str]]) -> list[str]:
    """Nodes that are left when everything without unfinished arrows is taken away: the cycles."""
    left = {node: {other for other in to if other != node} for node, to in arrows.items()}
    while free := [node for node, to in left.items() if not to & set(left)]:
        for node in free:
            del left[node]
    return sorted(left)


def test_the_cycle_finder_finds_cycles():
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert cycle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_modules_import_each_other_in_a_circle():
    assert cycle_in(ARROWS) == []


def test_no_packages_import_each_other_in_a_circle():
    packages: dict[str, set[str]] = {}
    for module, names in ARROWS.items():
        packages.setdefault(part(module), set()).update(part(name) for name in names)
    assert cycle_in(packages) == []


def test_torch_is_imported_only_where_it_may_be():
    users = {
        module
        for module, names in IMPORTS.items()
        if "torch" in {name.split(".")[0] for name in names}
    }
    assert [module for module in users if part(module) not in MAY_USE_TORCH] == []


@pytest.mark.parametrize(
    ("package", "allowed"), [("drifting", MAY_USE_IN_DRIFTING), ("arrays", MAY_USE_IN_ARRAYS)]
)
def test_the_heart_and_the_arrays_know_nothing_of_medicine(package, allowed):
    for module in MODULES:
        if part(module) == package:
            foreign = {
                name
                for name in IMPORTS[module] - standard(IMPORTS[module])
                if name.split(".")[0] not in allowed
            }
            assert not foreign, module
            own = {part(name) for name in ARROWS[module]}
            assert all(LAYER[name] < LAYER[package] or name == package for name in own), module


def test_only_folders_and_cluster_read_the_environment():
    readers = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in ("environ", "getenv")
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    assert readers <= {"gdmnet.folders", "gdmnet.cluster"}


def test_evaluation_and_fingerprint_workers_start_without_torch():
    code = (
        "import sys, gdmnet.commands.evaluate, gdmnet.planning.fingerprint;"
        "sys.exit('torch' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert finished.returncode == 0


def lines_of(folder: Path) -> int:
    paths = (path for kind in ("py", "js", "css", "html") for path in folder.rglob(f"*.{kind}"))
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


def test_modules_say_what_they_are():
    texts = {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}
    assert [m for m, text in texts.items() if not ast.get_docstring(ast.parse(text))] == []


def test_no_room_outgrows_its_budget():
    rooms = {names: lines_of(PACKAGE / names) for names in BUDGET if ", " not in names}
    over = {name: lines for name, lines in rooms.items() if lines > BUDGET[name]}
    assert over == {}
    alone = sum(path.read_text(encoding="utf-8").count("\n") for path in PACKAGE.glob("*.py"))
    assert alone <= sum(most for names, most in BUDGET.items() if ", " in names)


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without its head and its docstring."""
    first = function.body[1 if ast.get_docstring(function) and function.body[1:] else 0]
    return 1 + (function.end_lineno or 0) - first.lineno


def test_bodies_stay_short():
    long = [
        f"{module}: {node.name} has {body_lines(node)} lines"
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and body_lines(node) > LONGEST_BODY
    ]
    assert long == []


def test_nothing_else_is_visible_at_the_top():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= VISIBLE
