"""Who else on this machine may read or change a file that must be ours."""

import os
import stat
from contextlib import suppress
from pathlib import Path

WRITE, READ = stat.S_IWGRP | stat.S_IWOTH, stat.S_IRGRP | stat.S_IROTH


def find_exposure(mode: int, path: Path) -> tuple[bool, str]:
    """Return whether others may change a file of this mode, and what to do about those who may change or read it.

    The advice is empty where nobody else may do either.
    """
    if mode & WRITE:
        return True, f"{path} may be changed by other users of this machine: run 'chmod 600 {path}'"
    return False, f"{path} may be read by other users of this machine: run 'chmod 600 {path}'" if mode & READ else ""


def make_private(path: Path, *beside: Path) -> None:
    """Make a file that only its owner may read, or take the others' rights from it and files beside it.

    A file that exists is not opened: to close it would end the locks that this process has on it. Raises `OSError`.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        for each in (path, *beside):
            with suppress(FileNotFoundError, PermissionError):  # another's file is theirs to protect
                each.chmod(0o600)
