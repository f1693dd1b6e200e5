"""The house's own rules: who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the ground up; a file imports only from floors below its own.
FLOORS = [
    [
        *("facerec.domains", "facerec.values", "facerec.draws", "facerec.parallel"),
        *("facerec.queue", "facerec.output", "facerec.version", "facerec.data"),
        *("facerec.determinism", "facerec.pages", "facerec.precision"),
    ],
    ["facerec.rows", "facerec.row_optimizer", "facerec.launch", "facerec.checkpoint_files"],
    ["facerec.tree", "facerec.losses", "facerec.backbones"],
    [
        *("facerec.config", "facerec.evaluation", "facerec.confidence", "facerec.mfr"),
        "facerec.fused",
    ],
    [
        *("facerec.head", "facerec.presets", "facerec.history", "facerec.divergence"),
        *("facerec.onnx_backbone", "facerec.threshold", "facerec.planning"),
    ],
    ["facerec.optimizer", "facerec.checkpoint_state"],
    ["facerec.checkpoint_writer"],
    ["facerec.checkpoint"],
    ["facerec.model", "facerec.model_card", "facerec.start_from", "facerec.step"],
    ["facerec.train", "facerec.export"],
    ["facerec.tuning"],
    ["facerec.commands"],
    ["facerec.cli", "data_prep"],
    ["facerec.__main__"],
]
NUMPY_ALONE = tuple(
    f"facerec.evaluation.{name}"
    for name in (
        *("metrics", "roc", "identification", "distractors", "search", "curves"),
        *("uncertain", "level_counts", "comparison"),
    )
)
HEAVY = {"ray", "optuna"}
PLAIN_TUNING = {"sweep.py", "results.py", "report.py"}


def modules() -> Iterator[tuple[str, Path]]:
    for folder in ("facerec", "data_prep"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def floor(module: str) -> int | None:
    fits = [
        (len(name), number)
        for number, names in enumerate(FLOORS)
        for name in names
        if module == name or module.startswith(name + ".")
    ]
    return max(fits)[1] if fits else None


def room(module: str) -> list[str]:
    parts = module.split(".")
    return parts[:1] if parts[0] == "data_prep" else parts[:2]


MODULES = list(modules())


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_point_downward(module: str, path: Path) -> None:
    if not path.read_text(encoding="utf-8").strip():
        return
    own = floor(module)
    assert own is not None, f"{module} stands on no floor of this test's picture"
    for name in imports(path):
        other = floor(name)
        if other is not None and name.split(".")[0] in {"facerec", "data_prep"}:
            same_room = room(module) == room(name)
            assert other < own or same_room, f"{module} imports {name}, which is no floor below"


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_heavy_libraries_stay_in_their_room(module: str, path: Path) -> None:
    heavy = {name.split(".")[0] for name in imports(path)} & HEAVY
    in_room = module.startswith("facerec.tuning.") and path.name not in PLAIN_TUNING
    assert not heavy or in_room, f"{module} imports {heavy}"


def test_formulas_know_no_files_and_no_process_groups() -> None:
    for module, path in MODULES:
        formulas = ("facerec.losses", "facerec.backbones", *NUMPY_ALONE)
        if module.startswith(formulas):
            forbidden = {"os", "pathlib", "torch.distributed", "facerec.config", "pyarrow"}
            forbidden |= {"torch"} if module.startswith(NUMPY_ALONE) else set()
            assert not imports(path) & forbidden, module


def test_data_prep_knows_only_the_data_rooms() -> None:
    for module, path in MODULES:
        if module.startswith("data_prep"):
            wrong = [
                name
                for name in imports(path)
                if name.startswith("facerec") and not name.startswith("facerec.data")
            ]
            assert not wrong, f"{module} imports {wrong}"
        else:
            assert not any(name.startswith(("data_prep", "sweeps")) for name in imports(path))


def test_files_are_short_or_say_why() -> None:
    for _, path in MODULES:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 300:
            docstring = ast.get_docstring(ast.parse(text)) or ""
            assert "300 lines" in docstring, f"{path} is long and its top does not say why"
