"""A Debian made from nothing, with a systemd of its own: what an operator's fresh machine is."""

import os
import shutil
import subprocess
from pathlib import Path

from app.config.setting_types import PROJECT_ROOT
from tests.conftest import within

PACKAGES = "systemd,python3-venv,curl,ca-certificates"
TAKEN = ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt")
"""Files of this machine without which the new one would reach no package index."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_reason_against() -> str:
    """Say why no such machine can be made here; nothing if it can."""
    if os.environ.get("SCANCER_TEST_MACHINE") is None:
        return "makes and boots a Debian, which takes minutes; runs where SCANCER_TEST_MACHINE is set"
    if os.geteuid() != 0:
        return "root is needed to boot a systemd"
    missing = [name for name in ("debootstrap", "unshare", "nsenter") if shutil.which(name, path=PATH) is None]
    return f"{', '.join(missing)} is not installed" if missing else ""


class Machine:
    """Runs commands on the new machine; `stop` ends all that runs there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "debian"
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        for name in TAKEN:
            shutil.copy(f"/{name}", self.folder / name)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            command = ["bash", str(Path(__file__).with_name("boot.sh")), str(self.folder), str(PROJECT_ROOT)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        states = ("running", "degraded")
        assert within(60, lambda: self.run("systemctl is-system-running", False).strip() in states), (
            self.log.read_text()
        )

    def run(self, line: str, is_checked: bool = True) -> str:
        """Run a line of shell as root; return what it printed."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children:
            assert not is_checked, self.log.read_text()
            return ""
        pip = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("PIP_")]
        environment = ["env", "-i", f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8", *pip]
        command = ["nsenter", "-t", children[0], "-m", "-p", "-C", "-i", "-u", *environment, "sh", "-c", line]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert not is_checked or done.returncode == 0, f"{line}:\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(30)
