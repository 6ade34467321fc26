"""What root does with an installation, it does as its owner: whoever owns the folders may put anything into them."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from app.config.settings import Settings
from app.errors import BackupError, SettingsError, StateStoreError
from app.state.store_access import StoreAccess
from app.upkeep.backup import write_backup
from app.upkeep.restore import restore_backup
from app.upkeep.swap import NEW, OLD, STAGING, Journal, finish_restore, mark_database
from app.users import UsersFile
from tests.conftest import PASSWORD
from tests.upkeep.installation import add_users, look, make_installation, settle_in

OWNER = 65534, 65533
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can work for somebody else")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def owned(tmp_path: Path) -> Settings:
    """The settings of an installation whose empty folders belong to somebody else."""
    settings = settle_in(tmp_path / "owned")
    for folder in (settings.models, settings.instance):
        folder.mkdir(parents=True)
        os.chown(folder, *OWNER)
    return settings


def find_owners(*folders: Path) -> set[tuple[int, int]]:
    return {(path.stat().st_uid, path.stat().st_gid) for folder in folders for path in folder.rglob("*")}


def test_what_root_restores_belongs_to_whoever_owns_the_folders(owned: Settings, tmp_path: Path) -> None:
    made = make_installation(tmp_path / "made")
    add_users(made, PASSWORD, "ada")
    write_backup(made, tmp_path / "a.tar")  # which root alone may read
    assert stat.S_IMODE((tmp_path / "a.tar").stat().st_mode) == 0o600
    restore_backup(owned, tmp_path / "a.tar")
    assert find_owners(owned.models, owned.instance) == {OWNER}
    assert os.geteuid() == os.getegid() == 0
    assert look(owned) == look(made)


def test_what_root_changes_belongs_to_the_owner(owned: Settings) -> None:
    UsersFile(owned.instance).add("ada", "predict", PASSWORD)
    with closing(StoreAccess(owned)) as access, access.open().change() as draft:
        draft.defaults["a"] = "1"
        assert find_owners(owned.instance) == {OWNER}
    names = {path.name for path in owned.instance.iterdir()}
    assert names >= {"users", "users.lock", "state.db"}


@pytest.mark.parametrize("is_start", [True, False], ids=["start", "restore"])
def test_journal_of_the_owner_moves_nothing_to_a_place_of_root(owned: Settings, tmp_path: Path, is_start: bool) -> None:
    write_backup(make_installation(tmp_path / "made"), tmp_path / "a.tar")
    etc, staging, planted = tmp_path / "etc", owned.instance / STAGING, owned.instance / "etc"
    for folder in (etc, planted, staging, staging / NEW, staging / OLD):
        folder.mkdir()
    (planted / "ld.so.preload").write_text("/tmp/evil.so")  # lies at NEW / name, too
    name = "../../etc/ld.so.preload"
    journal = Journal(str(owned.models), [], [], [name], [], fills_database=False, database=mark_database("sqlite"))
    journal.write(owned.instance)
    for path in owned.instance.rglob("*"):
        os.chown(path, *OWNER)
    finish = finish_restore if is_start else partial(restore_backup, file=tmp_path / "a.tar")
    with pytest.raises(SettingsError, match=r"cannot be finished: .*Permission denied"):
        finish(owned)
    assert (list(etc.iterdir()), (planted / "ld.so.preload").exists()) == ([], True)


def test_link_of_the_owner_brings_no_secret_of_root_into_a_backup(owned: Settings, tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("root:secret")
    (tmp_path / "shadow").chmod(0o600)
    (owned.instance / "reports").mkdir()
    (owned.instance / "reports/x").symlink_to(tmp_path / "shadow")
    with pytest.raises(BackupError, match=f"^{owned.instance}/reports/x cannot be read: Permission denied"):
        write_backup(owned, tmp_path / "a.tar")
    assert list(tmp_path.glob("*a.tar*")) == []


def test_link_of_the_owner_takes_no_rights_from_a_file_of_root(owned: Settings, tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0")
    (tmp_path / "passwd").chmod(0o644)
    (owned.instance / "state.db").symlink_to(tmp_path / "passwd")
    with closing(StoreAccess(owned)) as access, pytest.raises(StateStoreError):
        access.open()
    assert stat.S_IMODE((tmp_path / "passwd").stat().st_mode) == 0o644
