"""`import app` is free, imports point one way, and every room stays small."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

from app.config.setting_types import PROJECT_ROOT

APP = PROJECT_ROOT / "app"
HEAVY = (
    "torch",
    "sqlalchemy",
    "opentelemetry",
    "tensorflow",
    "keras",
    "openvino",
    "flask",
    "prometheus_client",
    "numpy",
    "PIL",
    "matplotlib",
)
FRAMEWORKS = {
    "torch",
    "torchvision",
    "tensorflow",
    "keras",
    "tf_keras",
    "openvino",
    "safetensors",
    "nncf",
    "onnxruntime",
    "h5py",
}
FLASK = {"flask", "werkzeug", "flask_httpauth", "limits", "prometheus_flask_exporter"}
ROOMS = (
    "__init__",
    "gunicorn_conf",
    *("cli", "web", "api"),
    "upkeep",
    *("watch", "evaluation", "registry", "exchange", "compiling", "state", "repository"),
    *("handlers", "pipeline", "engines", "manifest"),
    *("metrics", "tracing", "routes", "server", "users"),
    *("processes", "config"),
    *("logs", "arrays", "base64_fields", "errors", "histograms"),
)
"""From top to bottom: a room may import what stands after it."""
TOP = ""
INNER_ROOMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "api": ((TOP,), ("management", "kserve", "monitoring"), ("predict",), ("request",), ("login",)),
    "engines": (("pytorch", "tensorflow", "compiled"), (TOP,)),
    "evaluation": (("report",), (TOP,)),
    "handlers": (("client", "manager", "worker"), (TOP,)),
}
"""The same for the folders in a room, and for the files at its top. Rooms of one row do not know each other."""
TS_PACKAGE = APP / "handlers/worker/ts-package"
MODULES = [path for path in sorted(APP.rglob("*.py")) if TS_PACKAGE not in path.parents]


def parts_of(path: Path) -> tuple[str, ...]:
    return path.relative_to(APP).with_suffix("").parts


def find_inner_room(parts: tuple[str, ...]) -> str:
    return parts[1] if len(parts) > 1 and (APP / parts[0] / parts[1]).is_dir() else TOP


def points_up(importer: tuple[str, ...], imported: tuple[str, ...]) -> bool:
    """Whether an import leads upwards; both are named by their parts below `app`."""
    if importer[0] != imported[0]:
        return imported[0] not in ROOMS or ROOMS.index(imported[0]) < ROOMS.index(importer[0])
    rows = INNER_ROOMS.get(importer[0], ())
    row = {room: index for index, rooms in enumerate(rows) for room in rooms}
    inner, other = find_inner_room(importer), find_inner_room(imported)
    return bool(rows) and inner != other and row[other] <= row[inner]


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_import_app_imports_nothing_heavy() -> None:
    code = f"import sys, app; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_imports_point_one_way() -> None:
    upwards = [
        f"{path.relative_to(PROJECT_ROOT)} imports {name}"
        for path in MODULES
        for name in imported_names(path)
        if name.startswith("app.") and points_up(parts_of(path), tuple(name.split(".")[1:]))
    ]
    assert upwards == []


def test_frameworks_are_imported_by_engines_alone_and_flask_by_what_knows_http() -> None:
    astray = []
    for path in MODULES:
        room, roots = parts_of(path)[0], {name.split(".")[0] for name in imported_names(path)}
        if room != "engines" and roots & FRAMEWORKS:
            astray.append(f"{path.relative_to(PROJECT_ROOT)} imports {roots & FRAMEWORKS}")
        if room not in ("api", "web", "cli", "users", "__init__") and roots & FLASK:
            astray.append(f"{path.relative_to(PROJECT_ROOT)} imports {roots & FLASK}")
    assert astray == []


def test_no_room_holds_more_than_twelve_files() -> None:
    counts = Counter(path.parent for path in sorted(APP.rglob("*.py")))
    assert {str(folder): count for folder, count in counts.items() if count > 12} == {}


def test_every_room_says_what_it_is_for() -> None:
    rooms = {path.parent for path in MODULES}
    silent = [room for room in rooms if not (ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or "")]
    assert silent == []


def test_no_two_modules_have_one_name() -> None:
    counts = Counter(path.name for path in sorted(APP.rglob("*.py")) if path.name != "__init__.py")
    assert {name: count for name, count in counts.items() if count > 1} == {}


def test_no_module_is_longer_than_300_lines_and_no_function_than_40() -> None:
    long = [f"{path}: {count} lines" for path in MODULES if (count := len(path.read_text().splitlines())) > 300]
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 40:
                    long.append(f"{path.relative_to(PROJECT_ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert long == []
