"""The import rules: which packages and modules may import which, no cycles, and no slow imports at start-up."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAVES = ("teachers", "students", "losses", "launch")
# The modules and subpackages of `distill`, the hub. Each may import those before it, and the leaves.
IMPORT_ORDER = (
    *(
        "errors",
        "wording",
        "files",
        "progress",
        "timing",
        "tensors",
        "contact_sheet",
        "metrics",
        "plugins",
        "tables",
        "augment_table",
        "data_table",
        "run_tables",
        "config",
        "other_names",
        "validation",
        "recipe",
        "rules",
    ),
    *("initial", "resolved", "text_sources", "lookup", "remarks", "recipe_reference"),
    *("data", "training", "ship", "evals", "observers", "studies", "reporting", "demo", "parts", "api", "cli"),
)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether the import is only for the type checker."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module] if node.module else []
            names += [f"{node.module}.{alias.name}" for alias in node.names if node.module == "distill"]
            yield from ((name, id(node) in typing_only) for name in names)


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_leaf_imports_neither_the_hub_nor_another_leaf(leaf: str) -> None:
    others = {"distill", *LEAVES} - {leaf}
    for path in (ROOT / leaf).rglob("*.py"):
        found = {name.split(".")[0] for name, _ in imports(path)}
        assert not found & others, f"{path} imports {found & others}"


def test_modules_of_the_hub_import_only_those_before_them() -> None:
    for path in (ROOT / "distill").rglob("*.py"):
        part = path.relative_to(ROOT / "distill").parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        allowed = IMPORT_ORDER[: IMPORT_ORDER.index(part) + 1]
        for name, _ in imports(path):
            parts = name.split(".")
            if parts[0] == "distill" and len(parts) > 1 and not parts[1].startswith("_"):
                assert parts[1] in allowed, f"{path} imports {name}"


def test_there_are_no_import_cycles() -> None:
    """Imports inside functions count too."""
    files = {p.relative_to(ROOT): p for package in ("distill", *LEAVES) for p in (ROOT / package).rglob("*.py")}
    names = {".".join(p.with_suffix("").parts).removesuffix(".__init__"): path for p, path in files.items()}
    needs = {name: needed(path, names) - {name} for name, path in names.items() if path.name != "__init__.py"}
    assert needs["distill.training.loop"] > {"distill.training.step", "launch.zero"}
    while free := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in free:
            del needs[name]
    assert not needs, f"there is a cycle among {sorted(needs)}"


def needed(path: Path, names: Collection[str]) -> set[str]:
    """The modules among ``names`` that a file imports, including submodules imported from a package."""
    found = {name for name, typing_only in imports(path) if not typing_only}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in names:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found & set(names)


def test_no_file_has_more_than_300_lines() -> None:
    for package in ("distill", *LEAVES):
        for path in (ROOT / package).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 300, f"{path} has more than 300 lines: split it"


def test_the_training_loop_is_short_and_contains_no_objectives_name() -> None:
    text = (ROOT / "distill/training/loop.py").read_text()
    assert len(text.splitlines()) < 250
    objectives = [p.stem for p in (ROOT / "losses/objectives").glob("*.py") if "\nOBJECTIVE = " in p.read_text()]
    assert "three_towers" in objectives
    assert not [name for name in objectives if f'"{name}"' in text]


def test_help_imports_no_slow_library() -> None:
    code = (
        "import sys; sys.argv = ['distill', '--help']\n"
        "from distill.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'deepspeed', 'numpy', 'pydantic', 'webdataset'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_error_about_a_shadowed_package_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text("")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    result = subprocess.run(
        [sys.executable, "-c", "import distill"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert f"hidden by {tmp_path / 'losses.py'}" in result.stderr
