"""What of the machine limits the service: processor, memory, limits, clock, disks, packages."""

import ctypes
import importlib.metadata
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from app.config.cpu_count import count_cores, find_groups
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import MIB, Settings
from app.engines.compiled.compile_report import COMPILED_FOLDER
from app.repository.model_folder import find_model_folders
from app.upkeep.finding import Finding, fault, ok, warning

WORKER_BYTES = 290 * MIB
"""Resident memory of a worker of the two shipped models once callers came together (`benchmarks/footprint.py`)."""
DESCRIPTORS = 4096
PYTHONS = ((3, 11), (3, 13))
PINS = "requirements_serve.txt"
LOW_BYTES, NO_BYTES = 1024 * MIB, 64 * MIB
"""Free room of a disk that is soon too little, and that is."""
MEMORY_FOLDER, MEMORY_LOW_BYTES = Path("/dev/shm"), 16 * MIB  # noqa: S108  # it is only looked at
UNSYNCHRONIZED = 5
"""What `adjtimex` of the C library answers where nothing sets the clock."""


def check_machine(settings: Settings, root: Path = Path("/")) -> Iterator[Finding]:
    """Look at everything of the machine; `root` holds `proc` and `sys`."""
    yield from check_processor(settings, root)
    yield check_cores(settings, root)
    yield check_memory(settings, root)
    yield from check_limits(settings)
    yield check_clock()
    yield from check_disks(settings)
    yield check_python()
    yield check_packages(PROJECT_ROOT / PINS)


def check_processor(settings: Settings, root: Path) -> Iterator[Finding]:
    """Look for the instructions that inference lives on; the times are those of both shipped models (decisions.md)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        yield ok("processor", f"{platform.machine()}: AVX2 and VNNI are not asked of it")
        return
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        yield warning("processor", "its instructions cannot be read", "Mount /proc")
        return
    flags = {word for line in text.splitlines() if line.startswith("flags") for word in line.split()}
    if "avx512f" in flags:
        yield ok("processor", "it has AVX-512, which compiled models run fastest on")
    elif "avx2" in flags:
        yield ok("processor", "it has AVX2; with AVX-512 an inference takes 0.5 to 0.7 of the time")
    else:
        advice = "Let the hypervisor pass the host's processor through, or take a newer machine"
        yield warning("processor", "it lacks AVX2, so an inference takes twice the time", advice)
    if {"avx512_vnni", "avx_vnni"} & flags:
        yield ok("processor", "it has VNNI: an INT8 inference takes 0.3 to 0.5 of float32's time")
    elif settings.precision == "int8":
        advice = "A machine with VNNI serves more; scores are the same"
        yield warning("processor", "it lacks VNNI: an INT8 inference takes 0.6 to 0.7 of float32's time", advice)
    else:
        yield ok("processor", "it lacks VNNI, which only INT8 models would use")


def check_cores(settings: Settings, root: Path) -> Finding:
    """Compare workers with cores."""
    cores = count_cores(root)
    told = f"{settings.workers} workers on {cores} cores"
    if settings.workers > cores:
        return warning("cores", told, f"More workers than cores cost memory and gain nothing: SCANCER_WORKERS={cores}")
    return ok("cores", told)


def check_memory(settings: Settings, root: Path) -> Finding:
    """Compare what workers and models take with what this process may have."""
    if not settings.models.is_dir():
        return warning("memory", "the models' memory is not known without SCANCER_MODELS", "Set it")
    models = [
        path.stat().st_size
        for each in find_model_folders(settings.models)
        for path in each.path.glob(f"{COMPILED_FOLDER}/*.bin")
    ]
    needed = settings.workers * (WORKER_BYTES + sum(models))
    limits = {"the machine": psutil.virtual_memory().total} | dict(read_memory_limits(root))
    holder, limit = min(limits.items(), key=lambda each: each[1])
    told = (
        f"{settings.workers} workers with all {len(models)} compiled models may take {needed // MIB} MiB, "
        f"and {holder} has {limit // MIB} MiB"
    )
    if needed > limit:
        return fault("memory", told, "Give more memory, set fewer SCANCER_WORKERS, or remove models")
    if needed > 0.8 * limit:
        return warning("memory", told, "Little is left for uploads and compilations: give more memory")
    return ok("memory", told)


def read_memory_limits(root: Path) -> Iterator[tuple[str, int]]:
    """Yield the limit in bytes of each control group that holds this process and has one."""
    for folder in find_groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                text = (folder / name).read_text(encoding="ascii").strip()
            except OSError:
                continue
            if text.isdecimal():
                yield "its control group", int(text)


def check_limits(settings: Settings) -> Iterator[Finding]:
    """Look at the limits that the system sets for each process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < DESCRIPTORS:
        advice = f"'ulimit -n {DESCRIPTORS}' before the start, or LimitNOFILE= in the unit, which has it as shipped"
        yield warning("open files", f"a process of this shell may open {soft}, so few clients connect at once", advice)
    else:
        yield ok("open files", f"a process may open {soft}")
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= space < settings.model_memory_bytes:
        text = f"a process may have {space // MIB} MiB, less than SCANCER_MODEL_MEMORY_BYTES"
        yield warning("address space", text, "Models may fail to compile: 'ulimit -v unlimited'")


def check_clock() -> Finding:
    """Ask the kernel whether something keeps the clock right."""
    try:
        library = ctypes.CDLL(None)
        answer = library.adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):  # not Linux
        return ok("clock", "this system does not say whether it is kept right")
    if answer == UNSYNCHRONIZED:
        advice = "Logs, certificates and signatures go by it: 'timedatectl set-ntp true', or start chrony"
        return warning("clock", "nothing keeps it right", advice)
    return ok("clock", "it is kept right" if answer >= 0 else "this container may not ask whether it is kept right")


def check_disks(settings: Settings) -> Iterator[Finding]:
    """Look at the free room of each folder that is written to, and of the memory that the metrics lie in."""
    for name, folder in (("SCANCER_INSTANCE", settings.instance), ("SCANCER_MODELS", settings.models)):
        if folder.is_dir():
            yield judge_disk(name, folder, LOW_BYTES, NO_BYTES)
    if MEMORY_FOLDER.is_dir():
        yield judge_disk("metrics", MEMORY_FOLDER, MEMORY_LOW_BYTES, MEMORY_LOW_BYTES // 4)


def judge_disk(name: str, folder: Path, low_bytes: int, none_bytes: int) -> Finding:
    """Judge one disk."""
    free = shutil.disk_usage(folder).free
    told, advice = f"{free // MIB} MiB are free in {folder}", "Free some space; changes of models answer 507 without"
    if free < none_bytes:
        return fault(f"disk of {name}", told, advice)
    return warning(f"disk of {name}", told, advice) if free < low_bytes else ok(f"disk of {name}", told)


def check_python() -> Finding:
    """Compare Python with those that the service is tried with."""
    low, high = PYTHONS
    told = platform.python_version()
    if low <= sys.version_info[:2] <= high:
        return ok("Python", told)
    return fault("Python", f"{told} is untried", "Take Python 3.11, 3.12 or 3.13")


def check_packages(pins: Path) -> Finding:
    """Compare the installed packages with their pins."""
    try:
        lines = pins.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ok("packages", f"{pins.name} is not here, so nothing was compared")
    wrong, count = [], 0
    for requirement in (Requirement(line) for line in lines if line and not line.startswith("#")):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        count += 1
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found = "absent"
        if not requirement.specifier.contains(found if found != "absent" else "0", prereleases=True):
            wrong.append(f"{requirement.name} is {found}, not {str(requirement.specifier).removeprefix('==')}")
    if wrong:
        return warning("packages", "; ".join(wrong), f"'pip install -r {pins.name}' in the service's environment")
    return ok("packages", f"all {count} are those that were tried")
