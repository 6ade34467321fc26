"""The cores of a process are counted by its affinity mask and by the quotas of its control groups."""

import os
from pathlib import Path

import pytest

from app.config.cpu_count import count_cores, read_quotas

CONTAINER = "docker/abc"


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 cores, all of which the affinity mask allows."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_quota_of_version_2_counts(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "200000 100000"})
    assert count_cores(tmp_path) == 2


@pytest.mark.parametrize("quota, cores", [(150_000, 2), (100_001, 2), (100_000, 1), (5_000, 1), (6_500_000, 64)])
def test_quota_is_rounded_up_and_never_counts_more_than_the_mask_allows(tmp_path: Path, quota: int, cores: int) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": f"{quota} 100000"})
    assert count_cores(tmp_path) == cores


def test_mask_counts_where_it_allows_less_than_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    write(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "200000 100000"})
    assert count_cores(tmp_path) == 1


@pytest.mark.parametrize(
    "own, parent, slice_", [("300000", "400000", "max"), ("max", "300000", "900000"), ("400000", "max", "300000")]
)
def test_least_quota_of_nested_groups_counts(tmp_path: Path, own: str, parent: str, slice_: str) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/machine.slice/pod/own",
            "sys/fs/cgroup/machine.slice/cpu.max": f"{slice_} 100000",
            "sys/fs/cgroup/machine.slice/pod/cpu.max": f"{parent} 100000",
            "sys/fs/cgroup/machine.slice/pod/own/cpu.max": f"{own} 100000",
            "sys/fs/cgroup/machine.slice/other/cpu.max": "100000 100000",
        },
    )
    assert count_cores(tmp_path) == 3


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_quota_of_version_1_counts_and_that_of_other_controllers_does_not(tmp_path: Path, mount: str) -> None:
    group, other = f"sys/fs/cgroup/{mount}/{CONTAINER}", f"sys/fs/cgroup/cpuset/{CONTAINER}"
    write(
        tmp_path,
        {
            "proc/self/cgroup": f"5:cpuset:/{CONTAINER}\n4:cpu,cpuacct:/{CONTAINER}\n1:name=systemd:/{CONTAINER}",
            f"{group}/cpu.cfs_quota_us": "250000",
            f"{group}/cpu.cfs_period_us": "50000",
            f"{other}/cpu.cfs_quota_us": "50000",
            f"{other}/cpu.cfs_period_us": "50000",
        },
    )
    assert count_cores(tmp_path) == 5


def test_container_that_sees_its_hosts_path_finds_its_quota_at_the_root(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": f"4:cpu,cpuacct:/{CONTAINER}", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000"}
    write(tmp_path, files | {"sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"})
    assert count_cores(tmp_path) == 4


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/own"},
        {"proc/self/cgroup": "0::/own", "sys/fs/cgroup/own/cpu.max": "max 100000"},
        {"proc/self/cgroup": "0::/own", "sys/fs/cgroup/own/cpu.max": ""},
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    ],
    ids=["no cgroups", "no file", "max", "empty file", "version 1 without a quota"],
)
def test_without_a_quota_the_mask_alone_counts(tmp_path: Path, files: dict[str, str]) -> None:
    write(tmp_path, files)
    assert list(read_quotas(tmp_path)) == []
    assert count_cores(tmp_path) == 64
