"""The reconciler's last words: kept, read back, and told as old when they are."""

from __future__ import annotations

from datetime import timedelta

from pipelines import status_file
from pipelines.reconciler import Tick
from policies.actions import Wait
from tests.unit.releases import NOW


def test_what_was_said_is_read_back(tmp_path):
    wait = Wait(model="fraud", environment="production", reason="bakes", until=NOW)
    status_file.write(tmp_path / "status.json", Tick(at=NOW, plan=None, waits=(wait,), problems=("Git is away",)))
    said = status_file.read(tmp_path / "status.json")
    assert (said.waits, said.problems) == ((wait,), ("Git is away",))


def test_a_missing_or_foreign_file_says_nothing(tmp_path):
    (tmp_path / "other.json").write_text('{"schema": 99}')
    assert status_file.read(tmp_path / "missing.json") is None
    assert status_file.read(tmp_path / "other.json") is None


def test_old_words_are_told_as_old(tmp_path):
    status_file.write(tmp_path / "status.json", Tick(at=NOW, plan=None))
    said = status_file.read(tmp_path / "status.json")
    assert status_file.silence(said, NOW + timedelta(seconds=30)) == ()
    assert "300 s ago" in status_file.silence(said, NOW + timedelta(minutes=5))[0]
