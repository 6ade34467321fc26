"""On a Debian that had nothing, `deploy/systemd/install.sh` leads to an answer, and the unit keeps what it promises."""

import threading
from collections.abc import Iterator

import pytest
import requests

from app.config.setting_types import PROJECT_ROOT
from tests.conftest import MANAGER, MANAGER_PASSWORD, PASSWORD, USER, find_free_ports, within
from tests.deploy.machine import Machine, find_reason_against

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(find_reason_against()), reason=find_reason_against())]
INSTALL = "bash /src/deploy/systemd/install.sh"
ENV = "/etc/scancer/scancer.env"
MAIN_PID = "$(systemctl show --property MainPID --value scancer)"
PICTURE = (PROJECT_ROOT / "models/pcam-classification/1.1/examples/metastatic.jpg").read_bytes()


class Installed(Machine):
    """The machine after the script ran once, with two users; its ports are free ones."""

    ports: list[int]

    def predict(self) -> requests.Response:
        url = f"http://127.0.0.1:{self.ports[0]}/predictions/pcam-classification"
        return requests.put(url, data=PICTURE, auth=(USER, PASSWORD), timeout=30)

    def list_children(self) -> set[str]:
        return set(self.run(f"cat /proc/{MAIN_PID}/task/*/children").split())

    def reload(self) -> None:
        """Reload, and wait until all workers are new ones."""
        before = self.list_children()
        self.run("systemctl reload scancer")
        assert within(60, lambda: not before & self.list_children())

    def is_healthy(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.ports[0]}/ping", timeout=5).ok
        except requests.ConnectionError:
            return False


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    made = Installed(tmp_path_factory.mktemp("machine"))
    try:
        made.ports = find_free_ports(3)
        settings = (PROJECT_ROOT / "deploy/systemd/scancer.env").read_text()
        for shipped, port in zip((8080, 8081, 8082), made.ports, strict=True):
            settings = settings.replace(f":{shipped}", f":{port}")
        (made.folder / "etc/scancer").mkdir()
        (made.folder / "etc/scancer/scancer.env").write_text(settings)
        made.run(INSTALL)
        for name, role, password in ((USER, "predict", PASSWORD), (MANAGER, "manage", MANAGER_PASSWORD)):
            made.run(f"echo '{password}' | scancer users add {name} --role {role} --password-stdin")
        yield made
    finally:
        made.stop()


def test_a_bare_machine_answers_as_soon_as_systemctl_returns(machine: Installed) -> None:
    machine.run("systemctl restart scancer")
    assert requests.get(f"http://127.0.0.1:{machine.ports[0]}/health/ready", timeout=5).json()["ready"] is True
    assert machine.predict().json()["class"] == "metastatic"
    assert machine.run("systemctl is-enabled scancer").strip() == "enabled"


def test_the_service_runs_confined_and_without_root(machine: Installed) -> None:
    status = dict(
        line.split(":\t", 1) for line in machine.run(f"cat /proc/{MAIN_PID}/status").splitlines() if ":\t" in line
    )
    assert "0" not in status["Uid"].split()
    assert (status["NoNewPrivs"], status["Seccomp"], status["CapEff"]) == ("1", "2", f"{1 << 10:016x}")
    into = f"nsenter -t {MAIN_PID} -m"
    assert "Read-only file system" in machine.run(f"{into} touch /opt/scancer/current/app/mine.py", False)
    machine.run(f"{into} touch /var/lib/scancer/mine && rm /var/lib/scancer/mine")


def test_figures_of_the_machine_are_seen_from_inside(machine: Installed) -> None:
    page = requests.get(f"http://127.0.0.1:{machine.ports[2]}/metrics", timeout=10).text
    assert {"CPUUtilization", "MemoryUtilization", "DiskUtilization"} <= {
        line.split("{")[0] for line in page.splitlines()
    }


def test_a_model_can_be_registered_from_inside(machine: Installed) -> None:
    machine.run("cp -r /src/models/pcam-classification/1.0 /var/lib/scancer/store/more")
    machine.run("chown -R scancer:scancer /var/lib/scancer/store")
    url = f"http://127.0.0.1:{machine.ports[1]}/models"
    wanted = {"url": "more", "model_name": "more-classification", "initial_workers": 1, "synchronous": "true"}
    answer = requests.post(url, params=wanted, auth=(MANAGER, MANAGER_PASSWORD), timeout=60)
    assert answer.status_code == 200, answer.text
    assert requests.delete(f"{url}/more-classification", auth=(MANAGER, MANAGER_PASSWORD), timeout=30).ok


def test_a_reload_loses_no_request(machine: Installed) -> None:
    codes, stops = [], threading.Event()

    def call() -> None:
        while not stops.is_set():
            codes.append(machine.predict().status_code)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        for _ in range(2):
            machine.reload()
    finally:
        stops.set()
        caller.join()
    assert set(codes) == {200}


def test_a_killed_server_comes_back(machine: Installed) -> None:
    killed = machine.run(f"echo {MAIN_PID}").strip()
    machine.run(f"kill -9 {killed}")
    assert within(60, lambda: machine.run(f"echo {MAIN_PID}").strip() not in ("0", killed))
    assert within(60, lambda: machine.run("systemctl is-active scancer", False).strip() == "active")
    assert machine.predict().ok


def test_a_wrong_setting_stops_the_start_and_the_journal_names_it(machine: Installed) -> None:
    machine.run(f"cp {ENV} /var/tmp/env; echo SCANCER_WORKERS=many >>{ENV}")
    try:
        assert "failed" in machine.run("systemctl restart scancer", False)
        assert "SCANCER_WORKERS='many' is not allowed" in machine.run("journalctl --unit scancer --output cat")
        assert "auto-restart" in machine.run("systemctl show --property SubState scancer")  # it is never left down
    finally:
        machine.run(f"cp /var/tmp/env {ENV}; systemctl restart scancer")
    assert machine.is_healthy()


def test_a_port_below_1024_needs_no_root(machine: Installed) -> None:
    first = machine.ports[0]
    machine.run(f"cp {ENV} /var/tmp/env; sed -i 's/:{first}/:843/' {ENV}")
    try:
        machine.run("systemctl restart scancer")
        assert requests.get("http://127.0.0.1:843/ping", timeout=5).ok
    finally:
        machine.run(f"cp /var/tmp/env {ENV}; systemctl restart scancer")


def test_an_upgrade_keeps_users_and_can_be_taken_back(machine: Installed) -> None:
    assert "is there already" in machine.run(INSTALL)
    before = machine.run("readlink /opt/scancer/current")
    machine.run("cd /var/tmp; cp -r /src newer; echo '# newer' >>newer/wsgi.py; bash newer/deploy/systemd/install.sh")
    after = machine.run("readlink /opt/scancer/current")
    assert before != after
    assert machine.predict().ok
    machine.run(f"{INSTALL} --rollback")
    assert machine.run("readlink /opt/scancer/current; readlink /opt/scancer/previous") == before + after
    assert machine.predict().ok


def test_what_is_removed_leaves_settings_users_and_models_until_purged(machine: Installed) -> None:
    machine.run(f"{INSTALL} --uninstall")
    assert not machine.is_healthy()
    left = "/opt/scancer /etc/systemd/system/scancer.service /usr/local/bin/scancer"
    assert machine.run(f"ls -d {left} 2>/dev/null", False) == ""
    machine.run(
        f"test -s {ENV}; test -s /var/lib/scancer/instance/users; test -d /var/lib/scancer/models/pcam-classification"
    )
    machine.run(f"{INSTALL} --purge")
    assert machine.run("ls -d /etc/scancer /var/lib/scancer 2>/dev/null; getent passwd scancer", False) == ""
