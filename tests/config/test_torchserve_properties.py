"""TorchServe's config.properties gives settings; what it cannot give is named, and variables of ours win."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT, Address
from app.config.settings import Settings
from app.config.torchserve_properties import ADVICE, HARMLESS, KEYS, TAKEN, describe_keys, read_config
from app.errors import SettingsError
from tests.conftest import LiveServer

# As TorchServe's own container image has it, with what people commonly add.
TYPICAL = """
# bind to all
inference_address=http://0.0.0.0:8080
management_address=http://127.0.0.1:9081
metrics_address=http://127.0.0.1:9082
number_of_netty_threads=32
job_queue_size=1000
default_workers_per_model=3
default_response_timeout=300
max_request_size=655350000
model_store=/home/model-server/model-store
load_models=all
enable_metrics_api=true
metrics_mode=prometheus
install_py_dep_per_model=false
enable_envvars_config=false
models={\\
  "noop": {\\
    "1.0": {"defaultVersion": true, "marName": "noop.mar"}}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.properties"
    path.write_text(text, "latin-1")
    return path


def read(folder: Path, text: str, **environ: str) -> Settings:
    return Settings.from_env({"SCANCER_TS_CONFIG": str(write(folder, text)), **environ})


def remarks(folder: Path, text: str, **environ: str) -> list[str]:
    return read_config(write(folder, text), environ).remarks


def test_typical_file_gives_the_settings_that_it_means(tmp_path: Path) -> None:
    settings = read(tmp_path, TYPICAL)
    assert settings == Settings(
        ts_config=tmp_path / "config.properties",
        inference_address=Address("0.0.0.0", 8080),
        management_address=Address("127.0.0.1", 9081),
        metrics_address=Address("127.0.0.1", 9082),
        queue_size=1000,
        workers=3,
        response_timeout_s=300,
        prediction_timeout_ms=300_000,
        max_body_bytes=655_350_000,
        store=Path("/home/model-server/model-store"),
    )


def test_only_what_cannot_be_had_is_named_once_each(tmp_path: Path) -> None:
    keys = [remark.split(":")[0] for remark in remarks(tmp_path, TYPICAL)]
    partly = ["job_queue_size", "default_workers_per_model"]
    assert keys == ["number_of_netty_threads", *partly, "load_models", "models"]


def test_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Settings(ts_config=tmp_path / "config.properties")
    assert remarks(tmp_path, "") == []


def test_variables_of_ours_win(tmp_path: Path) -> None:
    variables = {"SCANCER_WORKERS": "7", "SCANCER_INFERENCE_ADDRESS": "127.0.0.1:1"}
    settings = read(tmp_path, TYPICAL, **variables)
    assert (settings.workers, settings.inference_address) == (7, Address("127.0.0.1", 1))
    assert settings.queue_size == 1000


def test_wrong_value_is_named_by_its_key(tmp_path: Path) -> None:
    for key, value in (
        ("job_queue_size", "many"),
        ("default_response_timeout", "0.5"),
        ("inference_address", "unix:/x"),
    ):
        with pytest.raises(SettingsError, match=rf"^{key}='{value}' is not allowed: it must be "):
            read(tmp_path, f"{key}={value}")


def test_envelope_and_startup_time_are_named_with_where_an_archive_says_them(tmp_path: Path) -> None:
    envelope, startup = remarks(tmp_path, "service_envelope=kservev2\ndefault_startup_timeout=7")
    assert envelope.startswith('service_envelope: each archive names its envelope itself: write "envelope": ')
    assert startup.startswith("default_startup_timeout: a handler may take 120 s to load its model: say another time")
    assert remarks(tmp_path, "service_envelope=\ndefault_startup_timeout=120") == []
    assert read(tmp_path, "service_envelope=any\ndefault_startup_timeout=7") == read(tmp_path, "")


def test_workers_and_queue_are_taken_and_named_with_what_they_do_not_do(tmp_path: Path) -> None:
    workers, queue = remarks(tmp_path, "default_workers_per_model=2\njob_queue_size=3")
    assert workers.startswith("default_workers_per_model: it is the number of processes, each with all models; ")
    assert queue.startswith("job_queue_size: it counts for compiled models, in each worker; a handler's queue is ")


@pytest.mark.parametrize(
    "line, port",
    [
        ("inference_address=http://127.0.0.1", 80),
        ("management_address=http://127.0.0.1", 8081),
        ("metrics_address=http://127.0.0.1/", 8082),
        ("metrics_address=http://[::1]", 8082),
        ("metrics_address=http://localhost:9000", 9000),
    ],
)
def test_address_without_a_port_gets_torchserves(tmp_path: Path, line: str, port: int) -> None:
    settings = read(tmp_path, line)
    assert getattr(settings, line.split("=", maxsplit=1)[0]).port == port


def test_default_of_no_workers_is_passed_over(tmp_path: Path) -> None:
    assert read(tmp_path, "default_workers_per_model=0").workers == Settings().workers
    assert remarks(tmp_path, "default_workers_per_model=0") == []


def test_loading_at_the_start_is_named_with_what_to_do(tmp_path: Path) -> None:
    for value in ("all", "a.mar,b=b.mar"):
        [remark] = remarks(tmp_path, f"load_models={value}")
        assert remark.startswith("load_models: no archive of the store is registered by itself: register each one once")


def test_tls_is_asked_for_by_https_and_its_files_stand_beside_the_file(tmp_path: Path) -> None:
    text = "inference_address=https://127.0.0.1:8443\ncertificate_file=my.pem\nprivate_key_file=/etc/my.key\n"
    settings = read(tmp_path, text)
    assert (settings.tls_certificate, settings.tls_key) == (tmp_path / "my.pem", Path("/etc/my.key"))
    assert settings.inference_address == Address("127.0.0.1", 8443)
    told = remarks(tmp_path, text + "metrics_address=http://127.0.0.1:8082\n")
    assert told == ["metrics_address: TLS is spoken there too, as another address begins with https://"]


def test_https_without_files_stops_the_start(tmp_path: Path) -> None:
    for more in ("", "keystore=keystore.p12\nkeystore_pass=changeit\n"):
        with pytest.raises(SettingsError, match=r"^metrics_address begins with https://, which wants certificate_file"):
            read(tmp_path, f"metrics_address=https://127.0.0.1:8445\n{more}")
    variables = {"SCANCER_TLS_CERTIFICATE": "/a", "SCANCER_TLS_KEY": "/b"}
    assert read(tmp_path, "metrics_address=https://127.0.0.1", **variables).metrics_address.port == 8445


def test_files_of_tls_without_https_are_named_and_not_used(tmp_path: Path) -> None:
    text = "certificate_file=my.pem\nprivate_key_file=my.key\n"
    assert read(tmp_path, text).tls_certificate is None
    assert remarks(tmp_path, text) == [f"{key}: no address begins with https://" for key in (
        "certificate_file", "private_key_file")]  # fmt: skip


def test_unknown_key_is_named_with_the_near_one(tmp_path: Path) -> None:
    assert remarks(tmp_path, "job_queue_sise=1\nzzz=1") == [
        "job_queue_sise: TorchServe has no such key; did you mean job_queue_size?",
        "zzz: TorchServe has no such key",
    ]


def test_remark_holds_no_value(tmp_path: Path) -> None:
    text = "".join(f"{key}=SECRET\n" for key in (*ADVICE, "unknown"))
    told = remarks(tmp_path, text)
    assert len(told) == len(ADVICE) + 1
    assert "SECRET" not in "".join(told)


def test_value_that_says_what_is_so_anyway_is_passed_over_in_silence(tmp_path: Path) -> None:
    assert HARMLESS.keys() < ADVICE.keys()
    assert remarks(tmp_path, "".join(f"{key}={value.title()}\n" for key, value in HARMLESS.items())) == []


def test_variables_of_torchserve_count_where_the_file_says_so(tmp_path: Path) -> None:
    environ = {"TS_JOB_QUEUE_SIZE": "5", "TS_NUMBER_OF_GPU": "1"}
    assert read(tmp_path, "job_queue_size=9", **environ).queue_size == 9
    text = "job_queue_size=9\nenable_envvars_config=true"
    assert read(tmp_path, text, **environ).queue_size == 5
    assert remarks(tmp_path, text, **environ)[1:] == ["number_of_gpu: models run on the CPU"]


def test_value_may_name_a_variable(tmp_path: Path) -> None:
    text = "inference_address=http://$$HOST_NAME$$:$$PORT_1$$"
    assert read(tmp_path, text, HOST_NAME="localhost", PORT_1="90").inference_address == Address("localhost", 90)
    with pytest.raises(SettingsError, match=r"^inference_address names the environment variable HOST_NAME, which"):
        read(tmp_path, text)


def test_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^SCANCER_TS_CONFIG=.*none cannot be read: No such file"):
        Settings.from_env({"SCANCER_TS_CONFIG": str(tmp_path / "none")})
    with pytest.raises(SettingsError, match=r"cannot be read: \\u00 is no character"):
        read(tmp_path, "a=\\u00")


def test_every_setting_taken_is_one_of_ours() -> None:
    ours = set(Settings.__dataclass_fields__)
    assert {name for names in TAKEN.values() for name in names} <= ours
    assert len(KEYS) == len(set(KEYS))


def test_guide_lists_every_key_as_it_is() -> None:
    guide = (PROJECT_ROOT / "get_started/from_torchserve.md").read_text(encoding="utf-8")
    assert describe_keys() in guide


@pytest.mark.slow
def test_server_starts_from_the_file_and_names_each_key_in_one_line(instance: Path, tmp_path: Path) -> None:
    live = LiveServer(instance, tmp_path / "log", {"SCANCER_STOP_DELAY_S": "0"})
    addresses = zip(("inference", "management", "metrics"), live.ports, strict=True)
    lines = [f"{name}_address=http://127.0.0.1:{port}" for name, port in addresses]
    lines += ["default_workers_per_model=1", "number_of_gpu=2", "keystore_pass=changeit", "job_queue_sise=4"]
    write(tmp_path, "\n".join(lines))
    live.environment |= {f"SCANCER_{name}_ADDRESS": "" for name in ("INFERENCE", "MANAGEMENT", "METRICS")}
    live.environment |= {"SCANCER_TS_CONFIG": str(tmp_path / "config.properties")}
    try:
        live.start(wait_for="/health/live")
        assert live.process is not None
        children = Path(f"/proc/{live.process.pid}/task/{live.process.pid}/children").read_text().split()
        assert len(children) == 1

        # A worker that comes later keeps to what the file was at the start.
        write(tmp_path, "job_queue_size=broken\n")
        os.kill(int(children[0]), signal.SIGKILL)
        time.sleep(0.2)
        live.wait_until_answered("/health/ready")
    finally:
        live.stop()
    records = [json.loads(line) for line in live.log.read_text().splitlines()]
    told = [record for record in records if record["message"].startswith("a key of SCANCER_TS_CONFIG counts")]
    assert {record["level"] for record in told} == {"WARNING"}
    keys = ["default_workers_per_model", "number_of_gpu", "keystore_pass", "job_queue_sise"]
    assert [record["reason"].split(":")[0] for record in told] == keys
    assert "changeit" not in live.log.read_text()


def test_allowed_urls_are_those_of_torchserves_file(tmp_path: Path) -> None:
    text = r"allowed_urls=https://s3\\.amazonaws\\.com/.*, file://.*"
    assert read(tmp_path, text).allowed_urls == (r"https://s3\.amazonaws\.com/.*", "file://.*")
    assert remarks(tmp_path, text) == []
    assert read(tmp_path, "").allowed_urls == read(tmp_path, "allowed_urls=").allowed_urls == ()
    with pytest.raises(SettingsError, match="allowed_urls="):
        read(tmp_path, "allowed_urls=https://(")
