"""Who else on this machine may read or change a file that must be ours."""

import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

    What root makes belongs to whoever owns the folder, and root takes no rights from what is not theirs. A file that
    exists is not opened, and a new one gets its name when it is closed: closing a file ends all locks that this process
    has on it, and another thread may have locked it as soon as it has a name. Raises `OSError`.
    """
    if not os.path.lexists(path):
        staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            give_to_owner(path.parent, descriptor)
            os.close(descriptor)
            with suppress(FileExistsError):  # another was faster
                path.hardlink_to(staged)
                return
        except OSError as error:
            error.filename = str(path)
            raise
        finally:
            staged.unlink(missing_ok=True)
    for each in (path, *beside):
        with suppress(FileNotFoundError, PermissionError):  # another's file is theirs to protect
            protect(each)


def protect(path: Path) -> None:
    """Take others' rights from a file; as root, only if it is its folder's owner's, and no link to it."""
    if os.geteuid() != 0:
        path.chmod(0o600)
    elif sys.platform == "linux":  # elsewhere no file can be named so that it is the one that was looked at
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)  # opens nothing: the process's locks outlive it
        try:
            status = os.fstat(descriptor)
            if status.st_uid == find_owner(path.parent).st_uid and stat.S_ISREG(status.st_mode):
                Path(f"/proc/self/fd/{descriptor}").chmod(0o600)
        finally:
            os.close(descriptor)


def find_owner(folder: Path) -> os.stat_result:
    """Return the status that names a folder's owner, or that of a link to it, who chose where it leads."""
    own = folder.lstat()
    return own if own.st_uid else folder.stat()


def give_to_owner(folder: Path, descriptor: int) -> None:
    """Give an open file that root may have made to the folder's owner, who must be able to use it later."""
    if os.geteuid() != 0:
        return
    owner, status = folder.stat(), os.fstat(descriptor)
    if status.st_uid != owner.st_uid and status.st_nlink == 1:  # another name could be one of root's own files
        with suppress(PermissionError):  # root of a container, or of another machine's disk, may not give files away
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


@contextmanager
def become_owner(folder: Path) -> Iterator[None]:
    """Be whoever owns a folder, if this is root, until the block ends: an owner may put links into it at any moment.

    What is made belongs to the owner, too.

    Thread safety: all threads of the process become the owner.
    """
    if os.geteuid() != 0 or not folder.exists():
        yield
        return
    owner = find_owner(folder)
    if owner.st_uid == 0:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    try:
        with suppress(PermissionError):  # root of a container may not, nor may it do much else
            os.setgroups([owner.st_gid])
            os.setegid(owner.st_gid)
            os.seteuid(owner.st_uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        with suppress(PermissionError):
            os.setgroups(groups)
