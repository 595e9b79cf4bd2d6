"""A replica's own memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serving_runtime.memory import MIB, MemoryWatch, own_limit_bytes, resident_bytes, too_large

ALLOCATES = """
from serving_runtime.memory import DataLimit

limit = DataLimit()
limit.set(64)
try:
    bytearray(100 * 1024 * 1024)
except MemoryError:
    print("refused")
print(len(bytearray(10 * 1024 * 1024)))
limit.set(None)
print(len(bytearray(100 * 1024 * 1024)))
"""


KEEPS = """
import gc, weakref
from serving_runtime.memory import keep_loaded

class Node: pass

left, kept = Node(), Node()
left.self, kept.self = left, kept
was = weakref.ref(left)
del left
keep_loaded()
print("gone" if was() is None else "there")
print(gc.get_freeze_count() > 1000)
print(not any(each is kept for each in gc.get_objects()))
"""


def test_a_replica_knows_what_it_holds() -> None:
    before = resident_bytes()
    assert before is not None
    held = b"x" * (50 * MIB)
    after = resident_bytes()
    assert after is not None
    assert after - before > 0.8 * len(held)


def test_a_replica_above_its_limit_says_why_it_goes() -> None:
    assert (
        too_large(600 * MIB, 512 * MIB)
        == "this replica has 600 MiB in memory, and its limit is 512 MiB: it is replaced"
    )


@pytest.mark.parametrize(("resident", "limit"), [(512 * MIB, 512 * MIB), (None, 512 * MIB), (600 * MIB, None)])
def test_a_replica_within_its_limit_or_without_one_stays(resident: int | None, limit: int | None) -> None:
    assert too_large(resident, limit) == ""


def test_replicas_of_one_model_do_not_go_in_the_same_moment() -> None:
    limits = [own_limit_bytes(1000, draw) for draw in (0.0, 0.5, 1.0)]
    assert limits == [850 * MIB, 925 * MIB, 1000 * MIB]


def test_a_limit_is_taken_back_in_place() -> None:
    watch = MemoryWatch(0.5)
    assert watch.trouble == ""
    watch.configure(64)  # less than any Python with these tests in it has
    assert "its limit is 59 MiB" in watch.trouble
    watch.configure(None)
    assert watch.trouble == ""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_what_is_loaded_is_kept_from_later_collections() -> None:
    done = subprocess.run([sys.executable, "-c", KEEPS], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["gone", "True", "True"]


def test_one_allocation_of_more_than_the_whole_limit_fails_by_itself() -> None:
    done = subprocess.run([sys.executable, "-c", ALLOCATES], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["refused", str(10 * MIB), str(100 * MIB)]
