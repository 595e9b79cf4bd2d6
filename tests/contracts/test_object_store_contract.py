"""What every object store does: the fake, the folder and S3 alike."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from policies.capture_place import PLACE
from policies.errors import BadInput, Retry, Stalled
from policies.serving import Capture
from serving_runtime import object_store
from serving_runtime.object_store import FolderStore, ObjectStore, S3Store, Stored, open_store
from tests.contracts.store_harness import SERVERS, aim_at, bucket, moto, new_bucket, radosgw, store

__all__ = ["bucket", "moto", "radosgw", "store"]

HOUR = "model=fraud/version=3/hour=2026-11-29T03"


def test_what_was_put_is_there_whole(store: ObjectStore) -> None:
    content = bytes(range(256)) * 4000
    store.put(f"{HOUR}/a-000001.parquet", content)
    assert store.get(f"{HOUR}/a-000001.parquet") == content


def test_an_empty_file_is_a_file(store: ObjectStore) -> None:
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert list(store.list()) == [Stored("empty", 0)]


def test_what_was_never_put_is_none(store: ObjectStore) -> None:
    assert store.get("nobody/wrote-this") is None
    store.put("a/b", b"1")
    assert store.get("a") is None
    assert store.get("a/b/c") is None


def test_a_put_may_be_repeated_and_the_later_one_wins(store: ObjectStore) -> None:
    for content in (b"first", b"second", b"second"):
        store.put("a/b", content)
    assert store.get("a/b") == b"second"
    assert list(store.list()) == [Stored("a/b", 6)]


def test_an_empty_store_lists_nothing(store: ObjectStore) -> None:
    assert list(store.list()) == []
    assert list(store.list("model=fraud/")) == []


def test_files_are_listed_by_prefix_in_the_order_of_their_names(store: ObjectStore) -> None:
    names = ["a/c", "a-b", "a/b/d", "a/b", "b/a", "a.b/c"]
    for name in names[:3] + names[4:]:
        store.put(name, name.encode())
    there = sorted(set(names) - {"a/b"})
    assert [found.name for found in store.list()] == there
    assert [found.name for found in store.list("a/")] == ["a/b/d", "a/c"]
    assert [found.name for found in store.list("a")] == [name for name in there if name.startswith("a")]
    assert list(store.list("a/b/d")) == [Stored("a/b/d", 5)]
    assert list(store.list("c")) == []


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "a b", "a\n", "ü", "a\\b", "%2e", "a" * 513]
)
def test_a_name_that_is_not_safe_is_refused(store: ObjectStore, name: str) -> None:
    with pytest.raises(BadInput, match="safe name"):
        store.put(name, b"1")
    with pytest.raises(BadInput, match="safe name"):
        store.get(name)


# --- addresses ------------------------------------------------------------------------------------------------------


def test_an_address_names_a_bucket_with_a_prefix_or_a_folder() -> None:
    assert isinstance(open_store("s3://bucket"), S3Store)
    assert isinstance(open_store("s3://bucket/some/where/"), S3Store)
    assert isinstance(open_store("file:///var/captured"), FolderStore)


def is_taken(reads: Callable[[str], object], address: str) -> bool:
    try:
        reads(address)
    except (ValidationError, BadInput):
        return False
    return True


@given(st.from_regex(re.compile(PLACE), fullmatch=True))
def test_what_a_document_may_say_is_what_can_be_written_to(address: str) -> None:
    in_a_document = is_taken(lambda to: TypeAdapter(Capture).validate_python({"share": 1, "to": to}), address)
    assert in_a_document == is_taken(open_store, address)


def test_a_person_may_choose_a_folder_that_begins_with_a_dot(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/.sluice/captured")
    store.put("model=fraud/a.parquet", b"1")
    assert (tmp_path / ".sluice/captured/model=fraud/a.parquet").read_bytes() == b"1"
    assert list(store.list()) == [Stored("model=fraud/a.parquet", 1)]


@pytest.mark.parametrize(
    "address",
    [
        "", "bucket", "/folder", "file://folder", "file:///", "file:///a/../b", "file:///a%2f..", "s3://", "s3:///a",
        "s3://Bucket", "s3://key:secret@bucket", "s3://bucket/a b", "s3://bucket/a?b", "s3://bucket/a#b", "gs://bucket",
        "http://bucket/a", "s3://[", "s3://bucket/../other", "file:///a/.", "file:///a/.parts/b", "file:///a//b", "file://",
        f"file:///{'a' * 201}", f"s3://bucket{'/abcdefghi' * 51}", "file:///a\n", "file:///ü",
    ],
)  # fmt: skip
def test_another_address_is_refused(address: str) -> None:
    with pytest.raises(BadInput):
        open_store(address)


# --- the folder alone -----------------------------------------------------------------------------------------------


def test_an_unfinished_file_is_never_listed_and_goes_after_a_day(tmp_path: Path) -> None:
    unfinished = tmp_path / ".parts"
    unfinished.mkdir()
    old, young = unfinished / "old", unfinished / "young"
    for part in (old, young):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - object_store.STALE_PART_S - 1,) * 2)
    FolderStore(tmp_path).put("a/b", b"1")
    assert [found.name for found in FolderStore(tmp_path).list()] == ["a/b"]
    assert [part.name for part in unfinished.iterdir()] == ["young"]


def test_a_folder_that_cannot_be_made_needs_a_person(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Stalled, match="cannot be used"):
        FolderStore(tmp_path / "file" / "folder").put("a", b"1")


def test_links_are_not_followed_out_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "else" / "where").mkdir(parents=True)
    (tmp_path / "else" / "where" / "secret").write_text("x")
    store = FolderStore(tmp_path / "store")
    store.put("a", b"1")
    (tmp_path / "store" / "link").symlink_to(tmp_path / "else")
    assert list(store.list()) == [Stored("a", 1)]


# --- S3 alone -------------------------------------------------------------------------------------------------------


def test_more_files_than_a_page_holds_are_all_listed(bucket: str) -> None:
    names = [f"hour={n // 3:02d}/{n:04d}" for n in range(7)]
    for name in names:
        S3Store(bucket, "a").put(name, b"")
    assert [found.name for found in S3Store(bucket, "a", page_files=3).list()] == names


def test_two_prefixes_of_one_bucket_do_not_see_each_other(bucket: str) -> None:
    S3Store(bucket, "a").put("x", b"1")
    assert list(S3Store(bucket, "b").list()) == []
    assert [found.name for found in S3Store(bucket).list()] == ["a/x"]


def test_a_bucket_that_is_not_there_needs_a_person(bucket: str) -> None:
    missing = S3Store(f"{bucket}-missing")
    for call in (lambda: missing.put("a", b"1"), lambda: missing.get("a"), lambda: list(missing.list())):
        with pytest.raises(Stalled, match="NoSuchBucket"):
            call()


def test_a_store_that_does_not_answer_is_tried_later(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.processes import free_port

    aim_at(monkeypatch, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Retry, match="not reached"):
        S3Store("bucket").put("a", b"1")


def test_no_credentials_need_a_person(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(Stalled, match="credentials"):
        S3Store(bucket).put("a", b"1")


if "radosgw" in SERVERS:  # moto checks no signature

    def test_wrong_credentials_need_a_person(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket = new_bucket(request, "radosgw")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        with pytest.raises(Stalled, match="SignatureDoesNotMatch"):
            S3Store(bucket).put("a", b"1")


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("large", b"")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(object_store.READ_LIMIT_BYTES + 1)
    with pytest.raises(Stalled, match="more than"):
        store.get("large")


def test_many_names_fit(store: ObjectStore) -> None:
    for model, version, replica in itertools.product(("fraud", "churn-2"), (1, 20), ("Ab3_x-9",)):
        store.put(f"model={model}/version={version}/hour=2026-11-29T03/{replica}-000001.parquet", b"1")
    assert len(list(store.list("model=fraud/version=1/"))) == 1
    assert len(list(store.list("model=fraud/version="))) == 2
