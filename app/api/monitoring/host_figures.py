"""What the machine does, as its kernel tells at the moment of asking; what a system does not tell is left out."""

import shutil
import threading
from pathlib import Path

CPU_TIMES, MEMORY = Path("/proc/stat"), Path("/proc/meminfo")
DISK = "/"
KIB_PER_MIB = 1024
BYTES_PER_GIB = 1024**3


def read_cpu_times() -> tuple[int, int]:
    """Return the ticks all processors were busy since the machine started, and all ticks; zeros where untold."""
    try:
        line = CPU_TIMES.read_text("ascii").split("\n", 1)[0]
    except FileNotFoundError:  # macOS
        return 0, 0
    user, nice, system, idle, waiting, *more = (int(ticks) for ticks in line.split()[1:9])
    busy = user + nice + system + sum(more)
    return busy, busy + idle + waiting


def read_memory() -> dict[str, float]:
    """Return the memory in use and available, in MiB and percent."""
    try:
        lines = MEMORY.read_text("ascii").splitlines()
    except FileNotFoundError:  # macOS
        return {}
    sizes = {name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines)}
    total, available = sizes["MemTotal"], sizes["MemAvailable"]
    return {
        "MemoryUsed": (total - available) / KIB_PER_MIB,
        "MemoryAvailable": available / KIB_PER_MIB,
        "MemoryUtilization": 100 * (total - available) / total,
    }


def read_disk() -> dict[str, float]:
    """Return how full the root file system is, in GiB and percent of what users may fill."""
    disk = shutil.disk_usage(DISK)
    return {
        "DiskUsage": disk.used / BYTES_PER_GIB,
        "DiskAvailable": disk.free / BYTES_PER_GIB,
        "DiskUtilization": 100 * disk.used / (disk.used + disk.free),
    }


class HostFigures:
    """Figures of the machine under TorchServe's names; the processors' since they were last asked for.

    Thread safety: `read` may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen = read_cpu_times()
        self._cpu_percent = 0.0

    def read(self) -> dict[str, float]:
        """Return each figure by its name."""
        return {**self._read_cpu(), **read_memory(), **read_disk()}

    def _read_cpu(self) -> dict[str, float]:
        with self._lock:
            (earlier_busy, earlier), (busy, ticks) = self._seen, read_cpu_times()
            if ticks > earlier:  # a tick is 10 ms: two who ask at once would divide by nothing
                self._cpu_percent = 100 * (busy - earlier_busy) / (ticks - earlier)
                self._seen = busy, ticks
            return {"CPUUtilization": self._cpu_percent} if ticks else {}
