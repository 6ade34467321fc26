"""Backups and restores in children that are killed at random moments; what is left must be whole, old or new.

`python -m tests.upkeep.killed_upkeep FOLDER ROUNDS` prints how many of each were killed, and how many finished.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from app.config.settings import Settings
from app.registry.model_changes import Wishes
from app.upkeep.backup import write_backup
from app.upkeep.backup_file import read_backup
from app.upkeep.restore import restore_backup
from app.upkeep.swap import STAGING, finish_restore
from tests.conftest import PASSWORD
from tests.upkeep.installation import add_users, look, make_installation, open_changes, settle_in

STEPS = ("rename", "replace", "unlink")
"""Methods of `Path` at which a process can be made to kill itself."""


def run_child(task: Callable[[], object]) -> int:
    """Fork a child for a task; return its number."""
    child = os.fork()
    if not child:
        task()
        os._exit(0)
    return child


class Killer:
    """Kills children in the middle of their tasks, about half of them; they must not fail by themselves."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s

    def kill(self, task: Callable[[], object]) -> bool:
        """Run a child; return whether it was killed."""
        child = run_child(task)
        time.sleep(random.uniform(0, self._longest_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or status == 0
        self._longest_s *= 1.1 if os.WIFSIGNALED(status) else 0.9
        return os.WIFSIGNALED(status)


def make_two(folder: Path) -> tuple[list[Path], list[dict[str, object]]]:
    """Backups of two different installations, and what each holds."""
    files, seen = [], []
    for number, version in enumerate(("1", "2")):
        settings = make_installation(folder / f"made{number}")
        add_users(settings, PASSWORD, f"user{number}")
        with open_changes(settings) as changes:
            changes.register(version, Wishes(workers=0))
        files.append(folder / f"{number}.tar")
        write_backup(settings, files[-1])
        seen.append(look(settings))
    return files, seen


def kill_backups(settings: Settings, output: Path, rounds: int) -> int:
    """Kill backups; the file must be whole after each, and what killed ones left goes with the next."""
    started = time.monotonic()
    expected = write_backup(settings, output).manifest.files
    killer, killed = Killer(1.2 * (time.monotonic() - started)), 0
    for _ in range(rounds):
        killed += killer.kill(lambda: write_backup(settings, output))
        assert read_backup(output).files == expected
    write_backup(settings, output)
    assert [path.name for path in output.parent.glob(f"*{output.name}*")] == [output.name]
    return killed


def kill_restores(target: Settings, files: list[Path], seen: list[dict[str, object]], rounds: int) -> int:
    """Kill restores of one backup over the other; the place must hold one of them, as whoever comes next finds it."""
    started = time.monotonic()
    restore_backup(target, files[0])
    killer, killed, now = Killer(1.2 * (time.monotonic() - started)), 0, 0
    for _ in range(rounds):
        was_killed = killer.kill(partial(restore_backup, target, files[1 - now]))
        finish_restore(target)  # as a server does when it starts
        found = look(target)
        assert found in seen
        assert was_killed or found == seen[1 - now]
        killed, now = killed + was_killed, seen.index(found)
    return killed


def kill_at_each_step(target: Settings, files: list[Path], seen: list[dict[str, object]]) -> int:
    """Kill a restore at every single rename and removal, one after the other; return how many steps there are."""

    def die_at(step: int) -> None:
        left = [step]
        for name in STEPS:
            kept = getattr(Path, name)

            def counted(*arguments: object, kept: Callable[..., object] = kept, **named: object) -> object:
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return kept(*arguments, **named)

            setattr(Path, name, counted)
        restore_backup(target, files[1])

    step, was_new = 0, False
    while True:
        restore_backup(target, files[0])
        child = run_child(lambda step=step: die_at(step))
        _, status = os.waitpid(child, 0)
        finish_restore(target)
        found = look(target)
        assert found in seen
        assert not was_new or found == seen[1]  # once it is decided, it only goes forward
        was_new = found == seen[1]
        if not os.WIFSIGNALED(status):
            assert status == 0
            assert was_new
            assert not (target.models / STAGING).exists()
            return step
        step += 1


def main() -> None:
    """Run the rounds."""
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    files, seen = make_two(folder)
    (folder / "out").mkdir()
    backups = kill_backups(settle_in(folder / "made0"), folder / "out/nightly.tar", rounds)
    target = settle_in(folder / "target")
    restores = kill_restores(target, files, seen, rounds)
    steps = kill_at_each_step(target, files, seen)
    print(f"backups {backups}/{rounds} restores {restores}/{rounds} steps {steps}")


if __name__ == "__main__":
    main()
