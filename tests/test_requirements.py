"""The requirement files agree, and pip finds wheels for every platform they name."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from app.config.setting_types import PROJECT_ROOT

FULL, DIRECT, SERVE = "requirements_linux_macos.txt", "requirements.txt", "requirements_serve.txt"
INT8 = "requirements_int8.txt"
PINNED = [
    FULL,
    DIRECT,
    SERVE,
    INT8,
    "deploy/requirements_shared.txt",
    "deploy/requirements_tracing.txt",
    *(f"{folder}/requirements.txt" for folder in ("benchmarks", "tests", "training")),
]
LEGACY_X86_64 = ("manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64")
PLATFORMS = {
    "linux-x86_64": ("linux", "x86_64", [*LEGACY_X86_64, *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 36))]),
    "linux-arm64": (
        "linux",
        "aarch64",
        ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 36))],
    ),
    "macos-arm64": ("darwin", "arm64", [f"macosx_{major}_0_arm64" for major in range(11, 15)]),
    "macos-intel": (
        "darwin",
        "x86_64",
        [f"macosx_10_{minor}_x86_64" for minor in range(9, 17)] + [f"macosx_{m}_0_x86_64" for m in range(11, 15)],
    ),
}


def read(name: str) -> list[Requirement]:
    lines = (PROJECT_ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def chosen(name: str, system: str, machine: str) -> dict[str, str]:
    """Name and version of what a platform takes from a file."""
    environment = {**default_environment(), "sys_platform": system, "platform_machine": machine}
    environment |= {"python_version": "3.11", "python_full_version": "3.11.7"}
    picked = [each for each in read(name) if each.marker is None or each.marker.evaluate(environment)]
    assert len({each.name for each in picked}) == len(picked), "two versions of one package"
    return {each.name: str(each.specifier).removeprefix("==") for each in picked}


@pytest.mark.parametrize("name", PINNED)
def test_every_line_is_pinned(name: str) -> None:
    for requirement in read(name):
        assert re.fullmatch(r"==(\d+!)?[0-9][0-9.]*", str(requirement.specifier)), requirement


@pytest.mark.parametrize("platform", PLATFORMS)
def test_files_agree_on_versions(platform: str) -> None:
    system, machine, _ = PLATFORMS[platform]
    full = chosen(FULL, system, machine)
    for name in (DIRECT, SERVE):
        assert chosen(name, system, machine).items() <= full.items()


def test_serving_needs_no_framework() -> None:
    names = {requirement.name for requirement in read(SERVE)}
    assert names & {"torch", "tensorflow", "keras", "safetensors", "torchvision", "onnxruntime"} == set()


def test_intel_macos_serves_without_the_frameworks() -> None:
    taken = chosen(FULL, "darwin", "x86_64")
    assert "openvino" in taken
    assert "torch" not in taken
    assert "tensorflow" not in taken


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, "subprocess.Popen[str]"]]:
    """For each platform a pip that looks for what the full file names there; all of them at once."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(start_pip(name, tmp_path_factory.mktemp(name))) for name in PLATFORMS}


def start_pip(platform: str, target: Path) -> "subprocess.Popen[str]":
    system, machine, tags = PLATFORMS[platform]
    specifications = [f"{package}=={version}" for package, version in chosen(FULL, system, machine).items()]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--only-binary=:all:", "--python-version=3.11"]
    command += [f"--target={target}"]
    command += [f"--platform={tag}" for tag in tags]
    return subprocess.Popen([*command, *specifications], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.long
@pytest.mark.parametrize("platform", PLATFORMS)
def test_pip_finds_a_wheel_for_every_line(platform: str, searches: dict[str, "subprocess.Popen[str]"]) -> None:
    """Of the full file, which holds every line of the others: `test_files_agree_on_versions`."""
    said, _ = searches[platform].communicate()
    assert searches[platform].returncode == 0, said
