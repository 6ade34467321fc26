"""What `flask capacity` says is what was measured, and the page that leads there shows it."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask.cli import FlaskGroup

from app import create_app
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.upkeep.capacity import CapacityError, find_need, read_figures
from app.upkeep.start_checks import find_plain_http
from benchmarks.capacity_document import DOCUMENT, SUMMARY, summarize

PAGE = (PROJECT_ROOT / "deploy/growing.md").read_text(encoding="utf-8")
NEEDS = re.findall(
    r"^\| ([\d,]+) \| ([\d,.]+)/s \| (\d+) \+ 1 \| (\d+) \| ([\d.]+) GB \|.*\| (\d+) ms \|$", DOCUMENT.read_text(), re.M
)


def run(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    settings = Settings(models=tmp_path, instance=tmp_path)
    commands = FlaskGroup(create_app=lambda: create_app(settings))
    done = CliRunner().invoke(commands, ["capacity", *arguments], catch_exceptions=False)
    return done.exit_code, done.output


def test_figures_are_those_of_the_document() -> None:
    assert json.loads(SUMMARY.read_text()) == summarize(DOCUMENT.read_text())
    waits = read_figures().waits
    assert len(waits) >= 6
    assert all(before < after for before, after in pairwise(waits))
    with pytest.raises(ValueError, match="password"):
        summarize("another document | 1/s |")


def test_each_row_of_the_document_is_what_the_command_finds() -> None:
    assert len(NEEDS) == 3
    for per_day, peak, serving, cores, memory_gb, p99_ms in NEEDS:
        need = find_need(read_figures(), int(per_day.replace(",", "")), 100, 3, 2)
        assert f"{need.peak_per_s:,.1f}" == peak
        assert (need.serving, need.machines, need.cores) == (int(serving), int(serving) + 1, int(cores))
        assert f"{need.memory_mb / 1000:.1f}" == memory_gb
        assert need.p99_ms == pytest.approx(float(p99_ms), abs=1)


@pytest.mark.parametrize("p99_ms", [15, 25, 40, 60, 100, 1000])
@pytest.mark.parametrize("per_day", [1, 5_000_000, 20_000_000, 300_000_000])
def test_bound_is_kept_by_the_fewest_servers(per_day: int, p99_ms: float) -> None:
    figures = read_figures()
    need = find_need(figures, per_day, p99_ms, 3, 2)
    assert need.p99_ms * 1.2 <= p99_ms
    assert need.peak_per_s / need.serving <= figures.limit_per_s
    if need.serving > 1:
        less = need.peak_per_s / (need.serving - 1)
        assert less > figures.limit_per_s or figures.find_p99_ms(less) * 1.2 > p99_ms


def test_larger_machines_carry_several_servers_and_one_is_spare() -> None:
    need = find_need(read_figures(), 100_000_000, 100, 3, 16)
    assert (need.serving, need.machines, need.cores) == (15, 3, 48)
    assert need.memory_mb == 3 * 8 * read_figures().memory_mb


def test_what_no_number_of_machines_does_is_told(tmp_path: Path) -> None:
    status, text = run(tmp_path, "--per-day", "10", "--p99-ms", "10")
    assert (status, "no number of machines answers 99 of 100 within 10 ms" in text) == (1, True)
    with pytest.raises(CapacityError, match="one server takes 2 cores"):
        find_need(read_figures(), 10, 100, 3, 1)
    with pytest.raises(CapacityError, match="more than was measured"):
        replace(read_figures()).find_p99_ms(1e6)


def test_page_shows_what_the_command_prints(tmp_path: Path) -> None:
    command = re.search(r"<!-- run: capacity -->\n```sh\nflask capacity (.*)\n```", PAGE)
    shown = re.search(r"<!-- answer: capacity -->\n```\n(.*?)```", PAGE, re.DOTALL)
    assert command is not None
    assert shown is not None
    assert run(tmp_path, *command[1].split()) == (0, shown[1])


def test_settings_of_each_step_are_taken_and_start() -> None:
    blocks = dict(re.findall(r"<!-- settings: (\w+) -->\n *```sh\n(.*?)\n *```", PAGE, re.DOTALL))
    assert set(blocks) == {"machine", "int8", "several"}
    for text in blocks.values():
        settings = Settings.from_env(dict(line.strip().split("=", 1) for line in text.splitlines()))
        assert settings != Settings()
        assert find_plain_http(settings) == ""
