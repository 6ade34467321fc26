"""Figures of the machine, measured at the moment of asking."""

import threading

import psutil

BYTES_PER_MIB, BYTES_PER_GIB = 1024**2, 1024**3


def read_cpu_times() -> tuple[float, float]:
    """Return the seconds that all processors were busy since the machine started, and all their seconds."""
    times = psutil.cpu_times()._asdict()
    whole = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))  # user time holds it
    return whole - times["idle"] - times.get("iowait", 0.0), whole


class HostFigures:
    """Figures of the machine under TorchServe's names.

    Thread safety: `read` may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen = read_cpu_times()
        self._cpu_percent = 0.0

    def read(self) -> dict[str, float]:
        """Return each figure by its name."""
        memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
        return {
            "CPUUtilization": self._read_cpu(),
            "MemoryUsed": (memory.total - memory.available) / BYTES_PER_MIB,
            "MemoryAvailable": memory.available / BYTES_PER_MIB,
            "MemoryUtilization": 100 * (memory.total - memory.available) / memory.total,
            "DiskUsage": disk.used / BYTES_PER_GIB,
            "DiskAvailable": disk.free / BYTES_PER_GIB,
            "DiskUtilization": 100 * disk.used / (disk.used + disk.free),
        }

    def _read_cpu(self) -> float:
        """Return the percentage of time that the processors were busy since the last call, by whatever thread."""
        with self._lock:
            (earlier_busy, earlier), (busy, whole) = self._seen, read_cpu_times()
            if whole > earlier:  # the clock ticks every 10 ms: two callers at once would divide by zero
                self._cpu_percent = 100 * (busy - earlier_busy) / (whole - earlier)
                self._seen = busy, whole
            return self._cpu_percent
