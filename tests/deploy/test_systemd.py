"""The unit is sound and hardened, and `install.sh` can be tried below another root by anybody."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from app.config.setting_types import PROJECT_ROOT
from app.web.documents import find_guides
from tests.conftest import PASSWORD, USER, find_free_ports

FOLDER = PROJECT_ROOT / "deploy/systemd"
UNIT = FOLDER / "scancer.service"
MOST_EXPOSED = 2.0
NOBODY = 65534
PICTURE = PROJECT_ROOT / "models/isic-classification/1.1/examples/malignant.jpg"
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian: apt-get install systemd)"
)


def read_unit(unit: Path) -> dict[str, str]:
    """The last value of each directive."""
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))


def read_environment(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", file.read_text(), re.MULTILINE))


@needs_systemd
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text().replace("/opt/scancer/current/venv/bin/gunicorn", "/bin/true")  # not installed here
    (tmp_path / "scancer.service").write_text(text.replace("User=scancer", "User=root"))
    command = ["systemd-analyze", "verify", str(tmp_path / "scancer.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_the_unit_is_exposed_to_2_of_10_at_most() -> None:
    command = ["systemd-analyze", "security", "--offline=yes", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for scancer.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED


def test_the_wait_for_models_ends_before_systemd_loses_patience() -> None:
    unit = read_unit(UNIT)
    wait = re.search(r"^-.*--retry-max-time (\d+) ", unit["ExecStartPost"])  # the dash: a broken model fails no start
    assert wait is not None
    assert int(wait[1]) + 30 < int(unit["TimeoutStartSec"])


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "http://127.0.0.1:8080/health/ready"),
        ({"SCANCER_INFERENCE_ADDRESS": "127.0.0.1:9000"}, "http://127.0.0.1:9000/health/ready"),
        (
            {"SCANCER_INFERENCE_ADDRESS": "[::]:443", "SCANCER_TLS_CERTIFICATE": "/a.pem"},
            "https://[::]:443/health/ready",
        ),
    ],
)
def test_the_wait_for_models_asks_the_address_of_the_settings(settings: dict[str, str], url: str) -> None:
    line = read_unit(UNIT)["ExecStartPost"].removeprefix("-").replace("$$", "$").replace("/usr/bin/curl", "echo")
    done = subprocess.run(shlex.split(line), env=settings, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == url


def test_a_start_that_fails_is_tried_again_for_as_long_as_it_takes() -> None:
    unit = read_unit(UNIT)
    assert (unit["Restart"], unit["StartLimitIntervalSec"]) == ("on-failure", "0")
    assert int(unit["RestartSec"]) > 0


PYTHON_STAND_IN = """#!/bin/sh
case "$1 $2" in
  "-m venv")
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
    echo '#!/bin/sh' | tee "$3/bin/flask" >"$3/bin/gunicorn"
    echo 'echo "$SYSTEM_CALLER $*"; grep ^Cap[PE] /proc/self/status' >>"$3/bin/flask"
    echo 'echo "$(id -un) $(umask) $PWD $SCANCER_MODELS $*"' >>"$3/bin/gunicorn"
    chmod 755 "$3/bin/flask" "$3/bin/gunicorn"
    ;;
  "-c import os, sys"*) realpath "$0" ;;
  "-m pip") echo "$@" >"$(dirname "$0")/../pip" ;;
esac
"""
"""Takes what the installer asks of Python, and keeps what pip was told; the programs it installs tell how they run."""


class ClosedClone:
    """A copy of the project that was made under umask 077, and a root to install it below without any package."""

    def __init__(self, folder: Path) -> None:
        self.source, self._root, self._python = folder / "source", folder / "root", folder / "python"
        self.current = self._root / "opt/scancer/current"
        for name in ("app", "deploy"):
            shutil.copytree(PROJECT_ROOT / name, self.source / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("wsgi.py", "gunicorn.conf.py", "requirements_serve.txt"):
            shutil.copy(PROJECT_ROOT / name, self.source)
        for guide in find_guides().values():
            copied = self.source / guide.relative_to(PROJECT_ROOT)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(guide, copied)
        self.model = self.source / "models/small-model/1.0"
        self.model.mkdir(parents=True)
        for name in ("model.toml", "weights"):
            (self.model / name).write_text(name)
        for path in self.source.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)
        self._python.write_text(PYTHON_STAND_IN)
        self._python.chmod(0o755)
        self.script = self.source / "deploy/systemd/install.sh"
        self.installed_models = self._root / "var/lib/scancer/models"

    def run(self, *command: str | Path, **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHON": str(self._python), **variables}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def start(self, *options: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return self.run("bash", self.script, "--root", self._root, *options, **variables)

    def run_apart(self, script: str, folder: Path, *, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a script as root, below mounts that nobody else sees; it begins with `APART`."""
        if self.run("unshare", "--mount", "mount", "--make-rprivate", "/").returncode:
            pytest.skip("nothing can be mounted here")
        done = self.run("unshare", "--mount", "bash", "-euc", APART + script, "test", self.script, folder)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def install(self, *options: str) -> list[str]:
        """Run the installer; return the files of packages that pip got for the release that is current then."""
        done = self.start(*options)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"-r \S*requirements_(\w+)\.txt", (self.current / "venv/pip").read_text())


def test_an_upgrade_keeps_the_packages_that_earlier_runs_added(tmp_path: Path) -> None:
    clone = ClosedClone(tmp_path)
    assert clone.install() == ["serve"]
    assert clone.install("--tracing") == ["serve", "tracing"]
    assert clone.install("--shared") == ["serve", "shared", "tracing"]
    before = clone.current.resolve()
    with (clone.source / "wsgi.py").open("a") as file:
        file.write("# newer\n")
    assert clone.install() == ["serve", "shared", "tracing"]
    assert clone.current.resolve() != before
    after = clone.current.resolve()
    assert clone.install("--tracing", "--shared") == ["serve", "shared", "tracing"]
    assert clone.current.resolve() == after


def test_code_of_a_clone_that_is_closed_to_others_can_be_read_by_the_service(tmp_path: Path) -> None:
    clone = ClosedClone(tmp_path)
    clone.install()
    release = clone.current.resolve()
    made = [path for path in release.rglob("*") if release / "venv" not in path.parents]
    assert release / "app/config/settings.py" in made
    assert {release / guide.relative_to(PROJECT_ROOT) for guide in find_guides().values()} <= set(made)
    assert [path for path in made if not path.stat().st_mode & (0o001 if path.is_dir() else 0o004)] == []


def test_root_does_nothing_by_the_guides_where_the_service_may_have_planted_links() -> None:
    text = "".join(guide.read_text(encoding="utf-8") for guide in (PROJECT_ROOT / "deploy").glob("*.md"))
    lines = re.findall(r"sudo (.*/var/lib/scancer/.*)", text)
    assert len(lines) == 3
    assert [line for line in lines if not line.startswith("-u scancer ")] == []


KILLING = """#!/bin/sh
case "$*" in
  *.arriving*) rm "$(find "$ROOT" -path '*.arriving*' -name weights)"; kill -9 "$PPID"; exit 1 ;;
esac
exec /bin/mv "$@"
"""
"""An `mv` that ends the installer while a model is half there."""


def test_a_model_is_whole_after_a_run_that_was_killed_while_it_copied(tmp_path: Path) -> None:
    clone = ClosedClone(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/mv").write_text(KILLING)
    (tmp_path / "bin/mv").chmod(0o755)
    killed = clone.start(PATH=f"{tmp_path}/bin:{os.environ['PATH']}", ROOT=str(clone.installed_models))
    assert killed.returncode == -signal.SIGKILL
    left = [str(path.relative_to(clone.installed_models)) for path in clone.installed_models.rglob("model.toml")]
    assert left == ["small-model/.arriving/model.toml"]
    clone.install()
    there = {str(path.relative_to(clone.installed_models)) for path in clone.installed_models.rglob("*")}
    assert there == {"small-model", *(f"small-model/1.0{name}" for name in ("", "/model.toml", "/weights"))}


APART = """
mount --make-rprivate /
for folder in /opt /run /var/lib /var/backups /usr/local/bin; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
cp -a /etc "$2"
mount --bind "$2/etc" /etc
cp "$PYTHON" /usr/local/bin/python
export PYTHON=/usr/local/bin/python
"""
"""A machine to install on for good, of which nobody else sees anything."""

AS_ROOT = """
mkdir -p /var/lib/scancer/store
bash "$1"
state=/var/lib/scancer victim=/var/lib/victim
find "$state" -mindepth 1 -printf 'made %P %u %m\n'
mkdir "$victim"
for name in models/small-model models instance store; do
  setpriv --reuid=scancer --clear-groups sh -euc 'rm -rf "$1"; ln -s "$2" "$1"' sh "$state/$name" "$victim"
  bash "$1" && echo "installed $name" || echo "refused $name"
  stat -c '%U %a' "$victim"
  ls -A "$victim"
  rm "$state/$name"
done
"""
"""Installs, then again with links that the service's user planted."""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root alone installs for good")


@needs_root
def test_links_that_the_services_user_plants_give_it_nothing_of_roots(tmp_path: Path) -> None:
    done = ClosedClone(tmp_path).run_apart(AS_ROOT, tmp_path)
    said = [line for line in done.stdout.splitlines() if not line.startswith(("install: ", "env -i "))]
    made = {name: (owner, mode) for name, owner, mode in (line.split()[1:] for line in said if line[:5] == "made ")}
    assert {name: made[name][1] for name in ("models", "store", "instance")} == {
        "models": "750",
        "store": "750",
        "instance": "700",
    }
    assert {owner for owner, _ in made.values()} == {"scancer"}
    assert {"models/small-model/1.0/model.toml", "models/small-model/1.0/weights"} <= set(made)
    names = ("models/small-model", "models", "instance", "store")
    assert said[len(made) :] == [line for name in names for line in (f"refused {name}", "root 755")]


HIDDEN_PYTHONS = """
mkdir -m 700 /opt/closed
for folder in opt/closed home root; do
  path=/$folder/python-of-a-test
  [ "$folder" = opt/closed ] || mount -t tmpfs -o mode=755 tmpfs "/$folder"
  cp /usr/local/bin/python "$path"
  ln -sf "$path" /usr/local/bin/python3.12
  PYTHON=python3.12 bash "$1" 2>&1 && exit 1
done
ls -A /opt/scancer/releases
PYTHON="$path /usr/local/bin/python" bash "$1"
"""
"""Pythons that the service's user cannot run, or that the unit hides from it; the last line names a good one too."""


@needs_root
def test_a_python_that_the_service_cannot_run_is_refused_with_the_way_out(tmp_path: Path) -> None:
    said = ClosedClone(tmp_path).run_apart(HIDDEN_PYTHONS, tmp_path).stdout
    refused = re.findall(r"^install: the service cannot run (\S+);.*PYTHON=/usr/bin/python3$", said, re.MULTILINE)
    assert refused == [f"/{folder}/python-of-a-test" for folder in ("opt/closed", "home", "root")]
    assert re.findall(r"installing version .* with (\S+)$", said, re.MULTILINE) == ["/usr/local/bin/python"]


def test_another_python_of_the_same_version_makes_another_release(tmp_path: Path) -> None:
    clone = ClosedClone(tmp_path)
    clone.install()
    before = clone.current.resolve()
    other = shutil.copy(tmp_path / "python", tmp_path / "other")
    (tmp_path / "link").symlink_to(tmp_path / "python")
    assert clone.start(PYTHON=f"{tmp_path}/link").returncode == 0
    assert clone.current.resolve() == before
    assert clone.start(PYTHON=str(other)).returncode == 0
    assert clone.current.resolve() != before


WITHOUT_SYSTEMD = """
bash "$1" | tee /opt/said
echo "SCANCER_MODELS='/a b'" >>/etc/scancer/scancer.env
bash -c "$(grep '^env -i ' /opt/said)"
SUDO_USER=ada scancer doctor
scancer doctor
"""


@needs_root
def test_where_systemd_does_not_run_the_printed_line_starts_the_server_as_the_unit_does(tmp_path: Path) -> None:
    lines = ClosedClone(tmp_path).run_apart(WITHOUT_SYSTEMD, tmp_path).stdout.splitlines()
    assert any("so nothing was started" in line for line in lines)
    assert "scancer 0077 /opt/scancer/current /a b --pid /var/lib/scancer/gunicorn.pid wsgi:app" in lines
    none = [f"Cap{name}:\t{0:016x}" for name in ("Prm", "Eff")]
    callers = [[f"{name} --app wsgi doctor", *none] for name in ("ada", "root")]
    assert lines[-6:] == callers[0] + callers[1]


REMOVING = """
bash "$1" >/dev/null
install -d -o scancer -m 750 /var/backups/scancer
setpriv --reuid=scancer --regid=scancer --clear-groups touch /var/backups/scancer/mine.tar
setpriv --reuid=scancer --regid=scancer --clear-groups sleep 1000 >/dev/null 2>&1 &
server=$!
trap 'kill $server' EXIT
until grep -q "^Uid:.*$(id -u scancer)" "/proc/$server/status"; do :; done
for way in --uninstall --purge; do
  bash "$1" "$way" 2>&1 && exit 1
  ls -d /opt/scancer/current /usr/local/bin/scancer /etc/scancer/scancer.env /var/lib/scancer/models
done
echo "server $server"
kill "$server"
wait "$server" || true
trap - EXIT
bash "$1" --purge
ls -d /opt/scancer /etc/scancer /var/lib/scancer 2>/dev/null && exit 1
getent passwd scancer && exit 1
stat -c '%n %U %G %a' /var/backups/scancer /var/backups/scancer/mine.tar
"""
"""Removes the service while a program of its user runs, and after."""


@needs_root
def test_nothing_is_removed_under_a_running_server_and_backups_go_to_root(tmp_path: Path) -> None:
    said = ClosedClone(tmp_path).run_apart(REMOVING, tmp_path).stdout
    server = re.search(r"^server (\d+)$", said, re.MULTILINE)
    assert server is not None
    refused = re.findall(r"^install: .* so nothing was removed\. End them first: processes (.*)$", said, re.MULTILINE)
    assert [each.split() for each in refused] == [[server[1]], [server[1]]]
    assert said.count("/var/lib/scancer/models\n") == 2
    left = "/var/backups/scancer root root 700\n/var/backups/scancer/mine.tar root root 6"
    assert left in said
    assert "install: /var/backups/scancer stays, for root alone" in said


BODIES = """
mount --make-rprivate /
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
for plants in "mkdir $2" "touch $2" "ln -s $3 $2" true; do
  setpriv --reuid=nobody --clear-groups $plants
  systemd-tmpfiles --create "$1"
  stat -c '%F %U %a' "$2"
  rm -r "$2"
done
stat -c '%U %a' "$3"
"""
"""Makes nginx's folder where another user was there before, with each kind of file."""


@needs_systemd
@pytest.mark.skipif(os.geteuid() != 0, reason="root alone makes folders for others")
def test_folder_of_the_bodies_is_nginxs_own_whatever_another_user_made_there(tmp_path: Path) -> None:
    folder = PROJECT_ROOT / "deploy/nginx"
    named = {
        path
        for file in folder.glob("*.conf")
        for path in re.findall(r"^ *client_body_temp_path (\S+);", file.read_text(), re.MULTILINE)
    }
    entries = re.findall(r"^d= (\S+) 0700 www-data root$", (folder / "tmpfiles.conf").read_text(), re.MULTILINE)
    assert (entries, named) == (["/dev/shm/scancer-nginx"], {"/dev/shm/scancer-nginx"})
    guide = (PROJECT_ROOT / "deploy/README.md").read_text(encoding="utf-8")
    (installed,) = re.findall(r"^sudo cp deploy/nginx/tmpfiles.conf (/etc/tmpfiles.d/\S+\.conf)$", guide, re.MULTILINE)
    assert f"\nsudo systemd-tmpfiles --create {installed}\n" in guide
    command = ["unshare", "--mount", "bash", "-euc", BODIES, "test", folder / "tmpfiles.conf", *entries, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "mount: " in done.stderr or "unshare: " in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [*(4 * ["directory www-data 700"]), "root 700"]


def test_a_wrong_option_of_the_installer_is_named() -> None:
    done = subprocess.run(["bash", FOLDER / "install.sh", "--wrong"], capture_output=True, text=True, check=False)
    assert (done.returncode, "unknown option --wrong" in done.stderr) == (1, True)


class Trial:
    """A copy of the project in a folder that anybody may read, and a root that somebody else than root owns."""

    def __init__(self, folder: Path) -> None:
        self.source, self.root = folder / "source", folder / "root"
        names = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT_ROOT, capture_output=True, check=True).stdout
        for name in filter(None, names.decode().split("\0")):
            if not name.startswith(("tests/", "training/")):
                (self.source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT_ROOT / name, self.source / name)
        self.root.mkdir()
        if os.geteuid() == 0:
            os.chown(self.root, NOBODY, NOBODY)
        self.settings = self.root / "etc/scancer/scancer.env"
        self.unit = self.root / "etc/systemd/system/scancer.service"

    def start(self, *command: str | Path, **options: str) -> "subprocess.Popen[str]":
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        environment = {name: os.environ[name] for name in os.environ if name.startswith(("PATH", "PIP_"))}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment | options, **user
        )

    def run(self, *command: str | Path, text: str = "") -> str:
        process = self.start(*command)
        said, _ = process.communicate(text, timeout=300)
        assert process.returncode == 0, said
        return said

    def install(self, *options: str) -> str:
        return self.run("bash", self.source / "deploy/systemd/install.sh", "--root", self.root, *options)


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    folder = Path(tempfile.mkdtemp(prefix="scancer-trial-"))
    folder.chmod(0o755)
    made = Trial(folder)
    assert "systemd does not run here" in made.install()
    ports = find_free_ports(3)
    text = made.settings.read_text()
    for shipped, port in zip((8080, 8081, 8082), ports, strict=True):
        text = text.replace(f":{shipped}", f":{port}")
    made.settings.write_text(text)
    try:
        yield made
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.skipif("CI" not in os.environ, reason="installs an environment; runs where CI is set")
def test_what_the_unit_starts_says_ready_and_answers_another_user(trial: Trial, tmp_path: Path) -> None:
    added = trial.run(
        trial.root / "usr/local/bin/scancer", *f"users add {USER} --password-stdin".split(), text=PASSWORD
    )
    assert "added" in added
    unit, settings = read_unit(trial.unit), read_environment(trial.settings)
    tmp_path.chmod(0o755)
    tmp_path.parent.chmod(0o755)
    address = f"\0scancer-{os.getpid()}"  # a name that needs no folder
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(address)
        notified.settimeout(60)
        command = ["env", "-C", unit["WorkingDirectory"], *shlex.split(unit["ExecStart"])]
        server = trial.start(*command, **settings, NOTIFY_SOCKET="@" + address[1:])
        try:
            assert b"READY=1" in notified.recv(1024).splitlines()
            wait = unit["ExecStartPost"].removeprefix("-").replace("$$", "$")
            address = f"SCANCER_INFERENCE_ADDRESS={settings['SCANCER_INFERENCE_ADDRESS']}"
            trial.run("env", address, *shlex.split(wait))
            url = f"http://{settings['SCANCER_INFERENCE_ADDRESS']}/predictions/isic-classification"
            answer = requests.put(url, data=PICTURE.read_bytes(), auth=(USER, PASSWORD), timeout=30)
            assert answer.json()["class"] == "malignant"
        finally:
            server.terminate()
            server.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.skipif("CI" not in os.environ, reason="installs an environment; runs where CI is set")
def test_a_second_run_changes_nothing_and_uninstalling_keeps_the_data(trial: Trial) -> None:
    own = "SCANCER_WORKERS=1\n"
    with trial.settings.open("a") as file:
        file.write(own)
    assert "is there already" in trial.install()
    assert own in trial.settings.read_text()
    trial.install("--uninstall")
    assert sorted(str(path.relative_to(trial.root)) for path in trial.root.glob("*/*")) == [
        "etc/scancer",
        "etc/systemd",
        "usr/local",
        "var/lib",
    ]
    assert (trial.root / "var/lib/scancer/models/pcam-classification/1.1/model.toml").exists()
    assert not trial.unit.exists()
