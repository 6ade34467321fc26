"""Two servers behind the shipped nginx file, on one PostgreSQL and one Redis: `python -m benchmarks.two_servers`.

A hundred requests a second come for five minutes. Meanwhile each server in turn is killed (KILL) and started again,
upgraded (USR2, then QUIT for the old one) and reloaded (HUP); and the default version goes back and forth. Each answer
must be that of the version which it names. Then a user sends more than the limit to both, while one is killed.
Needs nginx, PostgreSQL and Redis (Debian: nginx-light postgresql redis-server).
"""

import http.client
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.config.setting_types import PROJECT_ROOT
from app.users import UsersFile
from benchmarks.callers import Callers
from benchmarks.scale import choose, make_parser
from benchmarks.server import PASSWORD, USER, find_free_ports, make_headers

CALLERS, RATE_PER_S = 16, choose(100, 20)
SECONDS, PAUSE_S = choose(300, 16), choose(6.0, 2.0)
LIMIT, ASKED = choose(200, 20), choose(300, 30)
TOLERANCE = 1e-5
MODEL, VERSIONS = "pcam-classification", ("1.1", "1.0")
PICTURES = [PROJECT_ROOT / "models" / MODEL / "1.1/examples" / name for name in ("normal.jpg", "metastatic.jpg")]
NGINX = """
daemon off;
{user}
pid {folder}/pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {folder}/scancer.conf;
}}
"""


class Server:
    """One gunicorn, in a process group of its own; `variables` are settings that both servers share."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        folder.mkdir()
        UsersFile(folder).add(USER, "manage", PASSWORD)
        self.ports, self._folder = find_free_ports(3), folder
        names = ("INFERENCE", "MANAGEMENT", "METRICS")
        own = {f"SCANCER_{n}_ADDRESS": f"127.0.0.1:{p}" for n, p in zip(names, self.ports, strict=True)}
        self._environment = {**os.environ, **variables, **own, "SCANCER_INSTANCE": str(folder)}
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def pid(self) -> int:
        """Process id of the gunicorn that answers."""
        return int((self._folder / "pid").read_text())

    def start(self) -> None:
        """Start, and wait until it is ready."""
        # Not `python -m gunicorn`: what USR2 starts would find gunicorn's own package `app` before ours.
        command = [str(Path(sys.executable).with_name("gunicorn")), "wsgi:app", "--pid", str(self._folder / "pid")]
        with (self._folder / "log").open("ab") as log:
            self._started.append(
                subprocess.Popen(
                    command, cwd=PROJECT_ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True
                )
            )
        self.wait()

    def wait(self) -> None:
        """Wait until it is ready."""
        end = time.monotonic() + 60
        while self.request("GET", "/health/ready") != 200:
            if time.monotonic() > end:
                raise TimeoutError((self._folder / "log").read_text())
            time.sleep(0.05)

    def request(self, method: str, path: str, surface: int = 0) -> int:
        """Send a request past nginx; the status, or 0 if nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[surface], timeout=30)
        try:
            connection.request(method, path, headers=make_headers())
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def kill(self) -> None:
        """Kill everything at once, as a machine that loses power does, and start again."""
        self.stop(signal.SIGKILL)
        (self._folder / "pid").unlink()  # names a process that nobody may have waited for yet
        self.start()

    def upgrade(self) -> None:
        """Start a second gunicorn beside the first, and let the first end once the second is ready."""
        old = self.pid
        os.kill(old, signal.SIGUSR2)
        while not (self._folder / "pid.2").exists():
            time.sleep(0.05)
        self.wait()
        time.sleep(choose(5, 3))  # until the new workers have their models: the old ones answer `ready` too
        os.kill(old, signal.SIGQUIT)
        while (self._folder / "pid.2").exists():
            time.sleep(0.05)

    def reload(self) -> None:
        """Replace the workers one by one."""
        os.kill(self.pid, signal.SIGHUP)
        time.sleep(1)
        self.wait()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End all its processes."""
        for process in self._started:
            try:
                os.killpg(process.pid, how)
            except ProcessLookupError:
                continue
        for process in self._started:
            process.wait()
        self._started.clear()


class PacedCallers(Callers):
    """Callers that come at a steady rate together; `counts` says what came of it."""

    def __init__(self, port: int, expected: dict[tuple[str, int], float]) -> None:
        super().__init__(CALLERS)
        self._port, self._expected = port, expected
        self._bodies = [path.read_bytes() for path in PICTURES]
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def ask(self, number: int) -> None:
        """Send pictures in an order of its own, at its share of the rate."""
        chooser, due = random.Random(number), time.monotonic() + number / RATE_PER_S
        while not self.stops.wait(max(0.0, due - time.monotonic())):
            due += CALLERS / RATE_PER_S
            index = chooser.randrange(len(self._bodies))
            outcome = self._send(index)
            with self._lock:
                self.counts[outcome] += 1

    def _send(self, index: int) -> str:
        status, text = send(self._port, self._bodies[index])
        if status != 200:
            return f"status {status}"
        answer = json.loads(text)
        wanted = self._expected[answer["version"], index]
        return "right" if abs(answer["score"] - wanted) <= TOLERANCE else "wrong"


def send(port: int, body: bytes, path: str = f"/predictions/{MODEL}") -> tuple[int, bytes]:
    """Send a picture on a connection of its own; status 0 if the answer was lost."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("PUT", path, body, make_headers())
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


@contextmanager
def run_postgres(folder: Path) -> Iterator[str]:
    """Run a database of our own behind a Unix socket; it refuses to run as root, so then as its own user."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres", "postgres")

    def run(*command: str) -> None:
        subprocess.run([*user, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)

    data, options = str(folder / "data"), f"-c listen_addresses='' -c unix_socket_directories={folder}"
    run(str(programs / "initdb"), "-D", data, "-U", "scancer", "-A", "trust")
    run(str(programs / "pg_ctl"), "-D", data, "-l", str(folder / "log"), "-o", options, "-w", "start")
    try:
        yield f"postgresql+psycopg://scancer@/postgres?host={folder}"
    finally:
        run(str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")


@contextmanager
def run_nginx(folder: Path, servers: list[Server]) -> Iterator[int]:
    """Run the shipped nginx file before both servers; yields its port."""
    (port,) = find_free_ports(1)
    text = (PROJECT_ROOT / "deploy/nginx/scancer.conf").read_text()
    both = "\n    ".join(f"server 127.0.0.1:{server.ports[0]} fail_timeout=2s;" for server in servers)
    edits = {
        "127.0.0.1:8000": f"127.0.0.1:{port}",
        "server 127.0.0.1:8080 fail_timeout=2s;": both,
        "/var/log/nginx": str(folder),
    }
    for old, new in (edits | {"/dev/shm/scancer-nginx": str(folder / "bodies")}).items():
        if old not in text:
            raise ValueError(f"the shipped file no longer has {old!r}")
        text = text.replace(old, new)
    (folder / "scancer.conf").write_text(text)
    user = "user root root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, user=user))
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise FileNotFoundError("nginx is not installed")
    with subprocess.Popen([program, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]) as process:
        try:
            time.sleep(1)
            yield port
        finally:
            process.terminate()


@contextmanager
def run_two(folder: Path, rate: str) -> Iterator[tuple[list[Server], int]]:
    """Run both servers on one database and one Redis; yields them and nginx's port."""
    folder.chmod(0o755)  # the database runs as a user of its own
    with ExitStack() as stack:
        for name in ("postgres", "redis", "nginx"):
            (folder / name).mkdir()
        database = stack.enter_context(run_postgres(folder / "postgres"))
        (redis_port,) = find_free_ports(1)
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(redis_port), "--save", ""]
        redis = stack.enter_context(subprocess.Popen(command, cwd=folder / "redis", stdout=subprocess.DEVNULL))
        stack.callback(redis.terminate)
        shared = {
            "SCANCER_DATABASE": database,
            "SCANCER_LIMITS_STORE": f"redis://127.0.0.1:{redis_port}/0",
            "SCANCER_PREDICTION_RATE": rate,
            "SCANCER_TRUSTED_PROXIES": "1",
            "SCANCER_WORKERS": "1",
        }
        servers = [Server(folder / name, shared) for name in ("a", "b")]
        for server in servers:
            stack.callback(server.stop)
            server.start()
        yield servers, stack.enter_context(run_nginx(folder / "nginx", servers))


def hurt(servers: list[Server], seconds: float) -> Counter[str]:
    """Kill, upgrade, reload and roll back in turn, with pauses; returns how often each was done."""
    done: Counter[str] = Counter()

    def set_default(server: Server) -> None:
        version = VERSIONS[done["set_default"] % 2 == 0]
        status = server.request("PUT", f"/models/{MODEL}/{version}/set-default", surface=1)
        if status != 200:
            raise RuntimeError(f"set-default answered {status}")

    acts: list[Callable[[Server], None]] = [Server.kill, Server.upgrade, set_default, Server.reload]
    turns = [(act, servers[(place + offset) % 2]) for offset in (0, 1) for place, act in enumerate(acts)]
    end, turn = time.monotonic() + seconds, itertools.cycle(turns)
    while time.monotonic() < end:
        time.sleep(PAUSE_S)
        act, server = next(turn)
        act(server)
        done[act.__name__] += 1
    return done


def main() -> None:
    """Print what the callers got."""
    make_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name, run_two(Path(name), "off") as (servers, port):
        bodies = [path.read_bytes() for path in PICTURES]
        expected = {
            (version, index): json.loads(send(port, body, f"/predictions/{MODEL}/{version}")[1])["score"]
            for version in VERSIONS
            for index, body in enumerate(bodies)
        }
        with PacedCallers(port, expected) as callers:
            done = hurt(servers, SECONDS)
        print(f"{dict(done)} in {SECONDS} s at {RATE_PER_S}/s: {dict(callers.counts)}")
    with tempfile.TemporaryDirectory() as name, run_two(Path(name), f"{LIMIT}/hour") as (servers, port):
        body = PICTURES[0].read_bytes()
        statuses = Counter(send(port, body)[0] for _ in range(ASKED // 2))
        servers[0].kill()
        statuses.update(send(port, body)[0] for _ in range(ASKED - ASKED // 2))
        print(f"limit of {LIMIT}: {dict(statuses)}")


if __name__ == "__main__":
    main()
