"""The last answers of every worker are found by request id, also after a restart; nothing else is kept."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT
from app.watch.kept_answers import KeptAnswer, KeptAnswers, mark_owner

NETWORK, OWNER = b"eight by", mark_owner("ada", "request-1")
ANSWER = KeptAnswer(OWNER, "pcam-classification/1.1", 1, 0.25, NETWORK, 7)


def test_answers_of_every_worker_are_found(tmp_path: Path) -> None:
    first, second, idle = KeptAnswers(tmp_path), KeptAnswers(tmp_path), KeptAnswers(tmp_path)
    first.keep("request-1", 0, ANSWER)
    second.keep("request-1", 1, KeptAnswer(OWNER, "a-b/2", 3, None, NETWORK, 7))
    for each in (first, second, idle):
        assert each.find("request-1", 0) == {ANSWER}
        assert each.find("request-1", 1) == {KeptAnswer(OWNER, "a-b/2", 3, None, NETWORK, 7)}
        assert each.find("request-1", 2) == set()
    assert sorted(path.name for path in (tmp_path / "answers").iterdir()) == ["0.ring", "1.ring"]


def test_different_answers_under_one_id_are_all_found_and_equal_ones_are_one(tmp_path: Path) -> None:
    first, second = KeptAnswers(tmp_path), KeptAnswers(tmp_path)
    other = KeptAnswer(OWNER, "a-b/2", 0, 0.5, NETWORK, 7)
    for each, answer in ((second, ANSWER), (first, other), (first, ANSWER)):
        each.keep("request-1", 0, answer)
    assert second.find("request-1", 0) == {ANSWER, other}


def test_answers_of_two_users_under_one_id_are_found_apart_and_together(tmp_path: Path) -> None:
    kept = KeptAnswers(tmp_path)
    owners = [mark_owner(name, "request-1") for name in ("ada", "bob", None)]
    answers = [replace(ANSWER, owner=owner) for owner in owners]
    for answer in answers:
        kept.keep("request-1", 0, answer)
    assert [kept.find("request-1", 0, owner) for owner in owners] == [{answer} for answer in answers]
    assert kept.find("request-1", 0) == set(answers)
    assert kept.find("request-1", 0, mark_owner("ada", "request-2")) == set()


OUT_OF_DESCRIPTORS = """
import os, resource, sys
from pathlib import Path
from app.watch.kept_answers import KeptAnswer, KeptAnswers
folder, answer = Path(sys.argv[1]), KeptAnswer(b"eight by", "pcam-classification/1.1", 1, 0.25, b"eight by", 7)
kept, limits = KeptAnswers(folder), resource.getrlimit(resource.RLIMIT_NOFILE)
KeptAnswers(folder).keep("request-0", 0, answer)  # so that the folder is there
opened = len(os.listdir("/proc/self/fd")) - 1  # without that of the list itself
resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 1, limits[1]))  # room for the lock, and not for the file
for _ in range(5):
    kept.keep("request-1", 0, answer)
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
kept.keep("request-2", 0, answer)
assert (kept.find("request-1", 0), kept.find("request-2", 0)) == (set(), {answer})
"""


def test_a_passing_lack_of_descriptors_takes_no_second_file(tmp_path: Path) -> None:
    """In a process of its own, whose open files no other test changes."""
    command = [sys.executable, "-c", OUT_OF_DESCRIPTORS, str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "answers").iterdir())) <= 2


def test_a_new_process_goes_on_where_one_has_ended(tmp_path: Path) -> None:
    first = KeptAnswers(tmp_path, slots=4)
    for number in range(3):
        first.keep(f"request-{number}", 0, ANSWER)
    first.close()
    second = KeptAnswers(tmp_path, slots=4)
    second.keep("request-3", 0, ANSWER)
    assert [second.find(f"request-{number}", 0) for number in range(4)] == [{ANSWER}] * 4
    second.keep("request-4", 0, ANSWER)
    assert second.find("request-0", 0) == set()
    assert second.find("request-1", 0) == second.find("request-4", 0) == {ANSWER}
    assert [path.name for path in (tmp_path / "answers").iterdir()] == ["0.ring"]
    assert (tmp_path / "answers/0.ring").stat().st_size == 4 * 140


def test_what_cannot_be_written_is_said_once_and_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "answers").write_text("no folder")
    kept = KeptAnswers(tmp_path)
    for _ in range(2):
        kept.keep("request-1", 0, ANSWER)
    assert kept.find("request-1", 0) == set()
    assert [record.message for record in caplog.records] == ["answers are not kept for later truths"]


def test_no_request_id_stands_in_the_file(tmp_path: Path) -> None:
    KeptAnswers(tmp_path).keep("patient-4711", 0, replace(ANSWER, owner=mark_owner("ada", "patient-4711")))
    written = (tmp_path / "answers/0.ring").read_bytes()
    assert b"4711" not in written
    assert b"ada" not in written
