"""What saymask writes is its owner's alone, whatever the umask."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from saymask.model_registry import ModelRegistry
from saymask.private_files import (
    create_private_file,
    make_folder_inside,
    make_private_folder,
    open_private_file,
    replace_atomically,
    replace_shared_file,
    write_settings_file,
)
from saymask_backend.local_stack.processes import ProcessGroup
from saymask_backend.local_stack.up import _load_login
from saymask_backend.records.backup import write_backup
from saymask_backend.records.stores import Stores


@pytest.fixture(params=[0, 0o022, 0o077], ids=["open", "usual", "closed"], autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def read_mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):o}"


def test_new_folders_are_private_and_old_ones_stay_as_they_are(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    old.chmod(0o755)
    make_private_folder(old / "new" / "below")
    make_private_folder(old)
    modes = [read_mode(path) for path in (old, old / "new", old / "new" / "below")]
    assert modes == ["755", "700", "700"]
    (old / "file").write_bytes(b"")
    with pytest.raises(FileExistsError):
        make_private_folder(old / "file")


def test_a_folder_inside_a_shared_one_is_shared(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o2770)
    assert read_mode(make_folder_inside(root, "a")) == "2770"
    (root / "a").chmod(0o700)
    assert read_mode(make_folder_inside(root, "a")) == "700"
    with pytest.raises(FileExistsError):
        make_folder_inside(root, "a", exist_ok=False)
    assert read_mode(make_folder_inside(tmp_path / "none", "a")) == "700"


def test_new_files_are_private(tmp_path: Path) -> None:
    with open_private_file(tmp_path / "text") as file:
        file.write("secret")
    create_private_file(tmp_path / "empty")
    assert [read_mode(tmp_path / name) for name in ("text", "empty")] == ["600", "600"]
    (tmp_path / "text").chmod(0o640)
    create_private_file(tmp_path / "text")
    assert ((tmp_path / "text").read_text(), read_mode(tmp_path / "text")) == ("secret", "640")
    with pytest.raises(FileExistsError):
        open_private_file(tmp_path / "text")


@pytest.mark.parametrize(("folder", "file"), [(0o2770, "660"), (0o755, "644"), (0o700, "600")])
def test_a_replaced_file_is_as_shared_as_its_folder(tmp_path: Path, folder: int, file: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(folder)
    path = root / "below" / "kept.json"
    for content in (b"first", b"second"):
        replace_shared_file(path, content)
        assert (path.read_bytes(), read_mode(path)) == (content, file)
    path.chmod(0o400)
    replace_shared_file(path, b"third")
    assert read_mode(path) == file, "as the folder says, not as the file was"
    assert list(path.parent.iterdir()) == [path]
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        replace_shared_file(path, b"third")
    assert list(path.parent.iterdir()) == [path], "nothing unfinished stays"


def test_database_and_backup_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    stores = Stores(f"sqlite:///{folder / 'saymask.db'}")
    stores.migrate()
    with stores.database.session() as session, stores.database.recording_lock(1):
        session.connection()
        modes = {path.name: read_mode(path) for path in folder.iterdir()}
    assert modes.pop("saymask.db") == "600"
    assert set(modes.values()) == {"600"}, "the journals of SQLite and the lock: " + str(modes)
    assert len(modes) >= 3
    assert read_mode(folder) == "700"
    write_backup(stores.database, tmp_path / "backup.zip", lambda _done, _all: None)
    assert read_mode(tmp_path / "backup.zip") == "600"
    stores.close()


def test_a_local_installation_is_private(tmp_path: Path) -> None:
    folder = tmp_path / ".saymask"
    ProcessGroup(folder / "logs", lambda _line: None)
    _load_login(folder)
    write_settings_file(folder, {"SAYMASK_LABEL_STUDIO_API_KEY": "key"})
    modes = {path.name: read_mode(path) for path in folder.iterdir()}
    assert modes == {"logs": "700", "login.json": "600", "settings.env": "600"}
    assert read_mode(folder) == "700"


def test_the_folder_of_models_is_private_or_shared_as_it_is(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    name = registry.create_run()
    assert [read_mode(registry.folder), read_mode(registry.folder / name)] == ["700", "700"]
    registry.folder.chmod(0o2770)
    assert read_mode(registry.folder / registry.create_run()) == "2770"


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text("old")
    path.chmod(0o640)
    with replace_atomically(path, is_synced=True) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert (path.read_text(), read_mode(path)) == ("new", "640")
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text("old")

    def write() -> None:
        with replace_atomically(path) as part:
            part.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])


KILLED = """
import os, signal, sys
from pathlib import Path
from saymask.private_files import replace_atomically

with replace_atomically(Path(sys.argv[1])) as part, part.open("w") as file:
    file.write("half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_that_is_killed_leaves_the_old_file_readable(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    with replace_atomically(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"


def test_a_killed_start_leaves_no_half_login(tmp_path: Path) -> None:
    script = (
        "import json, os, pathlib, signal, sys\n"
        "from saymask_backend.local_stack import up\n"
        "up.json.dump = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "up._load_login(pathlib.Path(sys.argv[1]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert _load_login(tmp_path) == _load_login(tmp_path)
