"""Counts the cores that this process may use: a container's quota limits them, and so does the affinity mask."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def count_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use, at least 1; a quota of 1.5 cores counts as 2. `root` holds `proc`."""
    has_mask = hasattr(os, "sched_getaffinity")  # absent on macOS
    cores = len(os.sched_getaffinity(0)) if has_mask else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in read_quotas(root))]))


def read_quotas(root: Path) -> Iterator[float]:
    """Yield the quota, in cores, of each control group that holds this process and has one."""
    for folder in find_groups(root, "cpu"):
        version_2, version_1 = folder / "cpu.max", [folder / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
        files = [version_2] if version_2.exists() else version_1
        try:
            quota, period_us = " ".join(file.read_text(encoding="ascii") for file in files).split()
        except (OSError, ValueError):  # this group has no such files
            continue
        if quota not in ("max", "-1") and int(period_us) > 0:  # how cgroup v2 and v1 write that there is none
            yield int(quota) / int(period_us)


def find_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups that may hold this process, from its own group up to the root.

    `/proc/self/cgroup` has a line `ID:CONTROLLERS:PATH` for each hierarchy; version 2 names no controllers. A container
    may see its own group as the root, and PATH as its host does: folders that do not exist are harmless.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        own = PurePosixPath(path.lstrip("/"))
        for mount in dict.fromkeys((controllers, controller if controllers else "")):
            for group in (own, *own.parents):
                yield root / "sys/fs/cgroup" / mount / group
