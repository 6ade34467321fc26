"""`import app` is free, and imports point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from app.setting_types import PROJECT_ROOT

HEAVY = ("torch", "sqlalchemy", "tensorflow", "keras", "openvino", "flask", "prometheus_client", "numpy", "PIL")
FRAMEWORKS = {"torch", "torchvision", "tensorflow", "keras", "openvino", "safetensors", "nncf", "onnxruntime"}
FLASK = {"flask", "werkzeug", "flask_httpauth", "prometheus_flask_exporter"}
GROUND = {
    "artifact",
    "manifest",
    "model_specs",
    "arrays",
    "errors",
    "config",
    "metrics",
    "locking",
    "logs",
    "ts_config",
    "java_properties",
    "setting_types",
    "toml_table",
}
ALLOWED = {
    "api": {"api", "repository", "handlers", "pipeline", "engines"},
    "web": {"api", "repository", "pipeline", "engines"},
    "cli": {"cli", "api", "repository", "pipeline", "engines"},
    "gunicorn_conf": {"api", "server", "handlers"},
    "handlers": {"handlers", "pipeline", "engines"},
    "server": {"server"},
    "__init__": {"api", "cli", "repository"},
    "repository": {"repository", "handlers", "pipeline", "engines"},
    "pipeline": {"pipeline", "engines"},
    "engines": {"engines"},
}
TS_PACKAGE = PROJECT_ROOT / "app/handlers/ts-package"
MODULES = sorted((PROJECT_ROOT / "app").rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(PROJECT_ROOT / "app").with_suffix("").parts[0]


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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    layer = layer_of(path)
    ours = {name.split(".")[1] for name in imported_names(path) if name.startswith("app.")}
    assert ours - GROUND - ALLOWED.get(layer, set()) == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_frameworks_are_imported_by_engines_alone(path: Path) -> None:
    """And by what handlers import, which only their own processes load."""
    roots = {name.split(".")[0] for name in imported_names(path)}
    if layer_of(path) != "engines" and TS_PACKAGE not in path.parents:
        assert roots & FRAMEWORKS == set()
    if layer_of(path) not in ("api", "web", "cli", "__init__"):
        assert roots & FLASK == set()
