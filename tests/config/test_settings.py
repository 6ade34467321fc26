"""Settings come from the environment, are checked as a whole, and a wrong one names itself."""

import dataclasses
import re
from pathlib import Path
from typing import get_args

import pytest

from app.config.cpu_count import count_cores
from app.config.setting_types import PROJECT_ROOT, Address, parse_address
from app.config.settings import REMOVED, SETTINGS, Settings, read_settings
from app.config.settings_document import GROUPS, describe_settings
from app.errors import SettingsError

NAMES = {f"SCANCER_{name.upper()}": field for name, field in SETTINGS.items()}


def read(**variables: str) -> Settings:
    return Settings.from_env({f"SCANCER_{name.upper()}": value for name, value in variables.items()})


def test_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert settings.inference_address == Address("127.0.0.1", 8080)
    assert settings.management_address == Address("127.0.0.1", 8081)
    assert settings.metrics_address == Address("127.0.0.1", 8082)
    assert settings.models == PROJECT_ROOT / "models"
    assert settings.instance == PROJECT_ROOT / "instance"
    assert settings.workers == count_cores()
    assert settings.max_body_bytes == 32 * 1024 * 1024
    assert settings.max_pixels == 25_000_000
    assert (settings.programs, settings.log_level) == ("off", "INFO")


def test_settings_are_few() -> None:
    # 34: whoever sends passwords in the clear must say so, and no other setting can mean that. 35: SCANCER_USER_HEADER,
    # as the name of a header is between the operator and the proxy. 36: SCANCER_LOG_FORMAT, as people who read the
    # journal and programs that collect it need different lines.
    assert len(SETTINGS) <= 36


def test_defaults_listen_on_loopback_only() -> None:
    assert all(address.is_loopback for address in Settings().addresses)


def test_environment_of_the_process_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCANCER_THREADS", "3")
    assert Settings.from_env() == Settings(threads=3)


def test_variables_of_others_are_passed_over() -> None:
    assert Settings.from_env({"PATH": "/bin", "scancer_threads": "x", "TS_THREADS": "x"}) == Settings()


def test_values_are_read_and_trimmed() -> None:
    settings = read(
        inference_address=" 0.0.0.0:80 ", workers=" 4\n", programs="ALL", log_level="debug", stop_delay_s="0"
    )
    assert settings.inference_address == Address("0.0.0.0", 80)
    assert (settings.workers, settings.programs, settings.log_level) == (4, "all", "DEBUG")
    assert settings.stop_delay_s == 0


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().threads = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", NAMES)
def test_bad_value_names_its_variable_and_what_is_allowed(name: str) -> None:
    bad = "no\0file" if Path in (NAMES[name].type, *get_args(NAMES[name].type)) else "-1"
    with pytest.raises(SettingsError) as raised:
        Settings.from_env({name: bad})
    shown = name if NAMES[name].metadata["is_secret"] else f"{name}={bad!r}"
    assert raised.value.message == f"{shown} is not allowed: it must be {NAMES[name].metadata['allowed']}."


@pytest.mark.parametrize("name", NAMES)
def test_empty_value_is_not_allowed(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}(='')? is not allowed"):
        Settings.from_env({name: ""})


def bounds(name: str) -> tuple[int, int]:
    """The least and the largest value, from the sentence that operators read."""
    *_, low, _, high = NAMES[name].metadata["allowed"].split()
    return int(low), int(high)


NUMBERS = [name for name, field in NAMES.items() if field.type is int]


@pytest.mark.parametrize("name", NUMBERS)
def test_whole_number_is_taken_within_its_bounds_only(name: str) -> None:
    low, high = bounds(name)
    field = NAMES[name].name
    for value in (low, high):
        assert getattr(Settings.from_env({name: str(value)}), field) == value
    for text in (str(low - 1), str(high + 1), f"{low}.0", f"{low}e1", f"+{low}", f"{low} 0", "1_0", "9" * 5000, "nan"):
        with pytest.raises(SettingsError):
            Settings.from_env({name: text})


@pytest.mark.parametrize("name", NUMBERS)
def test_default_is_within_its_bounds(name: str) -> None:
    low, high = bounds(name)
    assert low <= getattr(Settings(), NAMES[name].name) <= high


@pytest.mark.parametrize(
    "wrong, meant",
    [
        ("SCANCER_THREAD", "SCANCER_THREADS"),
        ("SCANCER_WORKER", "SCANCER_WORKERS"),
        ("SCANCER_MAX_BODY_BYTE", "SCANCER_MAX_BODY_BYTES"),
        ("SCANCER_INFERENCE_ADRESS", "SCANCER_INFERENCE_ADDRESS"),
        # It ends like a variable of a Kubernetes Service; its value is no address.
        ("SCANCER_WORKERS_PORT", "SCANCER_WORKERS"),
    ],
)
def test_misspelt_variable_suggests_the_near_one(wrong: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{wrong} is not a setting; did you mean {meant}\?$"):
        Settings.from_env({wrong: "1"})


def test_unknown_variable_without_a_near_one_is_named() -> None:
    name = "SCANCER_" + "Z" * 20
    with pytest.raises(SettingsError, match=rf"^{name} is not a setting\.$"):
        Settings.from_env({name: "1"})


@pytest.mark.parametrize(
    "text, address",
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("0.0.0.0:1", Address("0.0.0.0", 1)),
        ("localhost:65535", Address("localhost", 65535)),
        ("scan-1.example.org:80", Address("scan-1.example.org", 80)),
        ("[::1]:8080", Address("::1", 8080)),
        ("[2001:db8::A]:8080", Address("2001:db8::A", 8080)),
        ("http://127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("http://[::]:8080/", Address("::", 8080)),
    ],
)
def test_address_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "8080",
        ":8080",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:080808",
        "::1:8080",
        "[::1]",
        "[::1%eth0]:80",
        "https://127.0.0.1:8080",
        "http://127.0.0.1:8080/path",
        "user@host:80",
        "unix:/run/scancer.sock",
        "host name:80",
        "127.0.0.1:8080\n",
    ],
)
def test_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_address(text)


@pytest.mark.parametrize("text", ["127.0.0.1:8080", "[::1]:8080", "localhost:80"])
def test_address_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "host, loopback",
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_loopback_is_told_from_other_addresses(host: str, loopback: bool) -> None:
    assert Address(host, 80).is_loopback is loopback


def test_same_address_is_listened_on_once() -> None:
    settings = read(inference_address="127.0.0.1:80", management_address="127.0.0.1:80", metrics_address="[::1]:80")
    assert settings.addresses == (Address("127.0.0.1", 80), Address("::1", 80))


def test_relative_folder_stands_in_the_project() -> None:
    assert read(models="my/models").models == PROJECT_ROOT / "my" / "models"


def test_absolute_folder_and_home_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = read(models="/srv/models", instance="~/instance")
    assert (settings.models, settings.instance) == (Path("/srv/models"), Path("/home/somebody/instance"))


@pytest.mark.parametrize("name", REMOVED)
def test_variable_that_is_gone_is_named_with_what_takes_its_place(name: str) -> None:
    assert name.lower() not in SETTINGS
    with pytest.raises(SettingsError) as raised:
        Settings.from_env({f"SCANCER_{name}": "1", "SCANCER_THREADS": "-1"})
    assert raised.value.message == f"SCANCER_{name} is gone: {REMOVED[name]}."


def test_what_takes_the_place_of_a_setting_is_there() -> None:
    named = {word for text in REMOVED.values() for word in re.findall(r"SCANCER_(\w+)", text)}
    assert named == {"MAX_PIXELS", "MODEL_MEMORY_BYTES", "RESPONSE_TIMEOUT_S", "STOP_DELAY_S"}
    assert {name.lower() for name in named} <= SETTINGS.keys()


def test_settings_are_read_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    read_settings.cache_clear()
    try:
        monkeypatch.setenv("SCANCER_THREADS", "3")
        first = read_settings()
        monkeypatch.setenv("SCANCER_THREADS", "4")
        assert (first.threads, read_settings() is first) == (3, True)
    finally:
        read_settings.cache_clear()


def test_description_has_a_table_for_each_group_and_says_when_a_change_counts() -> None:
    groups = describe_settings().split("\n## ")[1:]
    assert [text.splitlines()[0] for text in groups] == [group.title for group in GROUPS]
    for text, group in zip(groups, GROUPS, strict=True):
        assert group.advice.startswith("A change wants a restart.")
        assert group.advice in text
        assert f"\n| --- | --- | --- | --- |\n| `SCANCER_{group.first.upper()}` |" in text


def test_description_has_a_row_for_every_setting() -> None:
    rows = [line for line in describe_settings().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(NAMES)
    for row, field in zip(rows, NAMES.values(), strict=True):
        assert row.endswith(f"| {field.metadata['allowed']} | {field.metadata['help']} |")
        assert str(PROJECT_ROOT) not in row


def test_settings_document_is_the_description() -> None:
    document = (PROJECT_ROOT / "get_started" / "settings.md").read_text(encoding="utf-8")
    assert document == describe_settings()


def test_auth_may_be_off_only_while_every_address_is_a_loopback_one() -> None:
    assert read(auth="off", metrics_address="[::1]:8082").auth == "off"
    with pytest.raises(
        SettingsError, match=r"SCANCER_AUTH=off is not allowed while other machines can reach 0\.0\.0\.0"
    ):
        read(auth="off", management_address="0.0.0.0:8081")
    with pytest.raises(SettingsError, match=r"reach a trusted proxy: .* without SCANCER_TRUSTED_PROXIES"):
        read(auth="off", trusted_proxies="1")


def test_relative_path_of_a_database_starts_from_the_project() -> None:
    assert read(database="sqlite:///a/b.db?timeout=3").database == f"sqlite:///{PROJECT_ROOT}/a/b.db?timeout=3"
    for url in ("sqlite", "sqlite:////a/b.db", "sqlite:///:memory:", "sqlite:///file:x?uri=true", "mysql://h/a"):
        assert read(database=url).database == url


def test_error_of_the_database_does_not_repeat_its_password() -> None:
    assert read(database="postgresql+psycopg://user:secret@host/name").database.endswith("@host/name")
    with pytest.raises(SettingsError, match="SCANCER_DATABASE is not allowed") as caught:
        read(database="user:secret@host")
    assert "secret" not in caught.value.message


SECRET = "correct-horse"


@pytest.mark.parametrize(
    "name, url",
    [
        *(("LIMITS_STORE", f"redis://:{text}") for text in (
            f"{SECRET}/battery@redis:6379/0",
            f"12/{SECRET}@redis",
            f"{SECRET}#battery@redis/0",
            f"{SECRET}?battery@redis/0",
            f"{SECRET}@battery@redis/0",
            f"{SECRET}[@redis/0",
            f"{SECRET}\N{CARE OF}@redis/0",
            f"{SECRET}\udcff@redis/0",
            f"{SECRET}@redis:99999/0",
            f"{SECRET}@redis:0/0",
            f"{SECRET}@redis:6379x/0",
            f"{SECRET}@redis..example/0",
            f"{SECRET}@/0",
            f"{SECRET}@redis/battery",
            f"{SECRET}@redis/0#1",
        )),
        ("LIMITS_STORE", f"redis://ada/{SECRET}@redis"),
        ("LIMITS_STORE", f"redis://ada?{SECRET}@redis"),
        ("LIMITS_STORE", f"redis+unix://:{SECRET}@/run/redis.sock"),
        *(("DATABASE", f"postgresql+psycopg://ada:{text}") for text in (
            f"p@{SECRET}@host/name",
            f"p@{SECRET}/w@host/name",
            f"12/3@{SECRET}@host/name",
            f"p@{SECRET}?w@host/name",
            f"{SECRET}@host:port/name",
            f"{SECRET}@host:99999/name",
        )),
    ],
)  # fmt: skip
def test_url_that_has_two_readings_is_refused_and_not_quoted(name: str, url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read(**{name: url})
    assert raised.value.message.startswith(f"SCANCER_{name} is not allowed: it must be ")
    assert raised.value.message.endswith("in a password, / ? # @ are written %2F %3F %23 %40.")
    assert SECRET not in raised.value.message
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    "name, url",
    [
        ("LIMITS_STORE", "redis://redis"),
        ("LIMITS_STORE", "redis://:correct%2Fhörse@redis.example.org:6379/0"),
        ("LIMITS_STORE", "rediss://ada:correct:horse@[::1]:6379/1?ssl_ca_certs=/etc/ca.pem"),
        ("LIMITS_STORE", "redis+unix:///run/redis/redis.sock?db=2"),
        ("DATABASE", "postgresql+psycopg://ada@server:correct/horse#battery@host.example:5432/name?options=-cx"),
        ("DATABASE", "postgresql+psycopg://ada:correct%40horse@[::1]/name"),
        ("DATABASE", "postgresql+psycopg:///name?host=/run/postgresql"),
        ("DATABASE", "mysql+pymysql://host/name?charset=utf8mb4"),
        ("DATABASE", "sqlite:////srv/a@b/state.db"),
    ],
)
def test_url_that_has_one_reading_is_taken_as_it_is(name: str, url: str) -> None:
    assert getattr(read(**{name: url}), name.lower()) == url


def test_key_in_the_place_of_a_file_is_refused_and_not_quoted() -> None:
    with pytest.raises(SettingsError) as raised:
        read(tls_key=f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n")
    assert raised.value.message == "SCANCER_TLS_KEY is not allowed: it must be a file."
