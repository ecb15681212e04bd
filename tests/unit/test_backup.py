"""The file of a backup: private, whole or refused, and never more than what a backup of ours holds."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli import backup
from cli.backup_file import DUMP, ENV, MANIFEST, Contents, Manifest, pack, unpack
from core.errors import StopTheStart
from core.storage.restored import known_revisions
from core.trading.types import KiteTarget
from docker.prerequisites import ROOT
from tests.strategy_world import make_settings

SETTINGS = make_settings()
FILES = {"session/local.json": b'{"access_token": "t0ken"}', "flatten/sends.jsonl": b"{}\n"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A backup."""
    dump = tmp_path / "work" / DUMP
    dump.parent.mkdir()
    dump.write_bytes(b"PGDMP" + bytes(range(256)) * 100)
    packed = tmp_path / "a.backup"
    pack(packed, Contents(Manifest.now(SETTINGS, "0009"), dump, "KITE_API_SECRET=s3cret\n", FILES))
    return packed


def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_what_was_packed_comes_back(file: Path, tmp_path: Path) -> None:
    found = unpack(file, out(tmp_path))
    assert (found.env, found.files) == ("KITE_API_SECRET=s3cret\n", FILES)
    assert found.dump.read_bytes().startswith(b"PGDMP")
    assert (found.manifest.revision, found.manifest.target) == ("0009", KiteTarget.LOCAL)
    assert "s3cret" not in repr(found)
    assert "t0ken" not in repr(found)


def test_only_its_owner_can_read_it_and_it_replaces_nothing(file: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    with pytest.raises(StopTheStart, match="there already"):
        pack(file, Contents(Manifest.now(SETTINGS, "0009"), _dump(tmp_path), "", {}))
    assert file.read_bytes() == before
    assert stat.S_IMODE(unpack(file, out(tmp_path)).dump.stat().st_mode) == 0o600


def _dump(tmp_path: Path) -> Path:
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / DUMP).write_bytes(b"x")
    return folder / DUMP


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flipped(data: bytes) -> bytes:
    at = data.index(b"PGDMP") + 500
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("harm", [_cut, _flipped, lambda data: b"", lambda data: b"no tar at all" * 99])
def test_a_damaged_file_is_refused(file: Path, tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(StopTheStart, match="damaged"):
        unpack(file, out(tmp_path))


def rewritten(file: Path, change: Callable[[dict[str, bytes]], Any], *links: tarfile.TarInfo) -> None:
    with tarfile.open(file) as tar:
        held = {entry.name: (tar.extractfile(entry) or io.BytesIO()).read() for entry in tar}
    change(held)
    with tarfile.open(file, "w") as tar:
        for name, data in held.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for link in links:
            tar.addfile(link)


@pytest.mark.parametrize(
    "name",
    ["../.ssh/authorized_keys", "/etc/cron.d/x", "session/../../x", "session/..", "flatten/a/b", "run/x", "session/"],
)
def test_no_name_leads_out_of_what_a_backup_holds(file: Path, tmp_path: Path, name: str) -> None:
    rewritten(file, lambda held: held.update({name: b"x"}))
    with pytest.raises(StopTheStart, match="no backup of ours"):
        unpack(file, out(tmp_path))
    assert {path.name for path in out_of(tmp_path)} <= {"a.backup", "work", "out", DUMP, "whole"}


def out_of(tmp_path: Path) -> list[Path]:
    return list(tmp_path.rglob("*"))


def test_a_link_is_refused(file: Path, tmp_path: Path) -> None:
    link = tarfile.TarInfo("session/local.json.new")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    rewritten(file, lambda held: None, link)
    with pytest.raises(StopTheStart, match="no backup of ours"):
        unpack(file, out(tmp_path))


@pytest.mark.parametrize("missing", [MANIFEST, ENV, DUMP])
def test_what_lacks_a_part_is_refused(file: Path, tmp_path: Path, missing: str) -> None:
    rewritten(file, lambda held: held.pop(missing))
    with pytest.raises(StopTheStart, match="damaged"):
        unpack(file, out(tmp_path))


def test_another_format_and_another_account_are_named(file: Path, tmp_path: Path) -> None:
    found = unpack(file, out(tmp_path)).manifest
    found.refuse_other_account(SETTINGS)
    for changed in ({"kite_user_id": "ZZ9999"}, {"kite_target": KiteTarget.PRODUCTION}):
        with pytest.raises(StopTheStart, match="KITE_USER_ID and KITE_TARGET"):
            found.refuse_other_account(SETTINGS.model_copy(update=changed))
    rewritten(file, lambda held: held.update({MANIFEST: held[MANIFEST].replace(b'"format":1', b'"format":2')}))
    (tmp_path / "more").mkdir()
    with pytest.raises(StopTheStart, match="format 2"):
        unpack(file, tmp_path / "more")


def test_the_revisions_are_those_of_the_migrations() -> None:
    files = (ROOT / "core" / "storage" / "migrations" / "versions").glob("v*.py")
    assert {path.name[1:5] for path in files} == known_revisions()


@pytest.mark.parametrize("kind", ["native", "docker"])
def test_no_password_is_on_a_command_line(kind: str, tmp_path: Path) -> None:
    words, environment = backup._program(SETTINGS, kind, "pg_dump")
    assert any(word.endswith("pg_dump") for word in words)
    password = SETTINGS.postgres_admin_password.get_secret_value()
    assert password not in " ".join(words)
    assert (environment.get("PGPASSWORD") == password) is (kind == "native")


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    backup._put_files(_at(tmp_path), FILES)
    backup._put_files(_at(tmp_path), {"session/local.json": b"older"})
    path = tmp_path / "var" / "session" / "local.json"
    assert path.read_bytes() == FILES["session/local.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_env_that_is_there_stays_and_data_without_one_is_not_taken_over(tmp_path: Path) -> None:
    assert backup._put_env(tmp_path, "A=1\n") is True
    assert backup._put_env(tmp_path, "A=2\n") is False
    assert (tmp_path / ".env").read_text() == "A=1\n"
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    os.unlink(tmp_path / ".env")
    (tmp_path / "var" / "data" / "postgres").mkdir(parents=True)
    with pytest.raises(StopTheStart, match="holds data"):
        backup._put_env(tmp_path, "A=3\n")


def test_nothing_is_written_where_nothing_runs_or_something_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "a.backup"
    there.write_text("mine")
    for kind, words in (("", "Nothing runs here"), ("native", "is there already")):
        monkeypatch.setattr("cli.stack.running_stack", lambda _, kind=kind: kind)
        with pytest.raises(StopTheStart, match=words):
            backup._backup(SETTINGS, there)
    assert there.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [there]


def test_a_long_path_is_said_whole_and_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/backups/" + "/".join(f"[bold]folder {n}" for n in range(30))
    backup._say(path)
    assert capsys.readouterr().out == f"  {path}\n"


def _at(folder: Path) -> Any:
    class There:
        var = folder / "var"

    return There()
