"""What the local stack promises before anything is started."""

from __future__ import annotations

import pytest

from pipelines.local_stack import _brought, _only_one
from policies.errors import Stalled
from policies.observations import Tip


def test_a_second_stack_on_one_folder_is_refused_and_the_folder_is_free_afterwards(tmp_path):
    with _only_one(tmp_path), pytest.raises(Stalled, match=r"runs in .* already"), _only_one(tmp_path):
        raise AssertionError("two stacks on one folder")
    with _only_one(tmp_path):
        assert (tmp_path / "lock").exists()


def test_a_later_start_brings_addresses_and_new_models_and_touches_no_other():
    tip = Tip(commit="0" * 40, files={"sluice.yaml": "old", "models/a.yaml": "mine"}, author="", subject="")
    files = {"sluice.yaml": "new", "models/a.yaml": "theirs", "models/b.yaml": "b", "policies/p.yaml": "p"}
    assert _brought(tip, files) == {"sluice.yaml": "new", "models/b.yaml": "b"}
