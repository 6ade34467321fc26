"""Confines the process that calls it: memory, files, network, and what outlives its parent; and what it is told.

Only root could lift the limits. They are no jail: the process still reads and writes what its user may.
"""

import ctypes
import os
import re
import resource
import signal
import sys
from pathlib import Path

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000  # sched.h of Linux
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # prctl.h of Linux
MAX_OPEN_FILES = 1024
MAX_FILE_BYTES = 1024 * 1024 * 1024
FIRST_TO_BE_KILLED = "1000"
PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_[A-Z]+|TZ|TZDIR|TMPDIR|TEMP|TMP|XDG_(CACHE|CONFIG|DATA)_HOME|"
    r"(DY)?LD_LIBRARY_PATH|LD_PRELOAD|GLIBC_TUNABLES|MALLOC_[A-Z_]+|PYTHON[A-Z0-9]+|PYTHON_(CPU_COUNT|GIL|JIT)|"
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|NUMEXPR|VECLIB|ONEDNN|DNNL)_[A-Z_]+|CUDA_[A-Z_]+|NVIDIA_VISIBLE_DEVICES|"
    r"(PY)?TORCH_[A-Z_]+|TORCHINDUCTOR_[A-Z_]+|KERAS_(BACKEND|HOME)|TF_(CPP|ENABLE|NUM|XLA|FORCE|USE)_[A-Z_]+"
)
"""Variables that a model's program gets: what Python, the locale, temporary files, threads and frameworks need. Any
other one may hold a password, and names such as NVIDIA_API_KEY begin like those of harmless ones."""


def make_environment() -> dict[str, str]:
    """Return what a process that runs the program of a model gets of our environment: nothing that may be secret."""
    return {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}


def confine(memory_bytes: int, file_bytes: int = MAX_FILE_BYTES) -> list[str]:
    """Confine this process and all that it starts, for good; return what is in force, in words for a log.

    Call it before a thread starts.
    """
    limits = {"NOFILE": MAX_OPEN_FILES, "FSIZE": file_bytes, "CORE": 0}
    # macOS has the name but does not keep to it.
    if sys.platform == "linux":
        limits["AS"] = memory_bytes
    for name, limit in limits.items():
        lower_limit(getattr(resource, f"RLIMIT_{name}"), limit)
    in_force = [f"{name} {limit}" for name, limit in limits.items()]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_BE_KILLED, encoding="ascii")
        if leave_network(libc):
            return [*in_force, "no network"]
    return [*in_force, "the network is open: this host does not allow to leave it"]


def lower_limit(kind: int, limit: int) -> None:
    """Lower a limit of this process; one that is lower already stays."""
    _, hard = resource.getrlimit(kind)
    lowest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (lowest, lowest))


def leave_network(libc: ctypes.CDLL) -> bool:
    """Move this process to a network of its own, in which there is nothing; return whether the host allowed it."""
    if libc.unshare(CLONE_NEWNET) == 0:
        return True
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    # In a user namespace without these lines the process would be nobody.
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    return True


MEMORY_WORDS = ("MemoryError", "bad_alloc", "allocate memory")
"""How Python, C++ and the frameworks say that they got no more memory."""
CRASHES = (signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV)


def name_limit(reason: str, memory_bytes: int, file_bytes: int) -> str:
    """Name the limit that a failure speaks of, to be written behind its reason; nothing if it speaks of none."""
    if any(words in reason for words in MEMORY_WORDS):
        return f" (it may use {memory_bytes} bytes of memory: SCANCER_MODEL_MEMORY_BYTES)"
    if "File too large" in reason:
        return f" (a file may have {file_bytes} bytes: twice SCANCER_MAX_MODEL_BYTES)"
    return ""


def describe_exit(code: int, memory_bytes: int | None = None) -> str:
    """Say how a process ended that told no reason; as `subprocess` has it, a code below 0 is the signal's."""
    if code >= 0:
        return f"it ended with code {code} and told no reason"
    name = {each.value: each.name for each in signal.Signals}.get(-code, f"signal {-code}")
    limit = "" if memory_bytes is None else f" (limit {memory_bytes} bytes: SCANCER_MODEL_MEMORY_BYTES)"
    if -code == signal.SIGKILL:
        return f"it was killed ({name}): most likely out of memory{limit}"
    if -code in CRASHES:
        return f"it crashed ({name}): perhaps a library got no more memory{limit}"
    return f"it was ended ({name})"
