"""The digest says what an artifact is. `MLMODEL` is a file that MLflow 3.17 wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.artifact_digest import MLMODEL_BYTES, Content, artifact_digest
from policies.errors import BadInput

MLMODEL = """\
artifact_path: mlflow-artifacts:/0/models/m-01e2fa1209f4405eb9343f93a1aba562/artifacts
flavors:
  python_function:
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.sklearn
    model_path: model.skops
    predict_fn: predict
    python_version: 3.11.7
is_signature_from_type_hint: false
mlflow_version: 3.17.2
model_id: m-01e2fa1209f4405eb9343f93a1aba562
model_size_bytes: 9483
model_uuid: m-01e2fa1209f4405eb9343f93a1aba562
prompts: null
run_id: 4d0d3b8eccda4b5b93791abb65b07aa1
saved_input_example_info:
  artifact_path: input_example.json
  serving_input_path: serving_input_example.json
  type: ndarray
signature:
  inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 3]}}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]'
  params: null
utc_time_created: '2026-11-23 12:26:44.483766'
"""
LOGGED_AGAIN = (
    MLMODEL.replace("m-01e2fa1209f4405eb9343f93a1aba562", "m-31f88f765c984c29a4c9be608645df6f")
    .replace("run_id: 4d0d3b8eccda4b5b93791abb65b07aa1\n", "")  # logged outside a run
    .replace("12:26:44.483766", "12:26:57.335287")
    .replace("model_size_bytes: 9483", "model_size_bytes: 9484")
)
TREE = {"MLmodel": MLMODEL, "model.skops": "weights", "requirements.txt": "numpy==2.4\n", "code/a/b.py": "x = 1\n"}


def stream(text: str | bytes, chunk: int = 7) -> Content:
    raw = text.encode() if isinstance(text, str) else text

    def content() -> Iterator[bytes]:
        for at in range(0, len(raw), chunk):
            yield raw[at : at + chunk]

    return content


def digest(tree: Mapping[str, str | bytes], chunk: int = 7) -> str:
    return artifact_digest({path: stream(text, chunk) for path, text in tree.items()})


def test_the_digest_of_a_known_artifact_is_known() -> None:
    """Digests lie in Git for years: one that changes by itself would quarantine nothing any more."""
    assert digest(TREE) == "sha256:8e0d690a2bcfb91fbe0ad7c686ce9bec3ae75f223d8610e0572c2d36d7cc3206"


def test_registering_an_artifact_again_keeps_its_digest() -> None:
    downloads = [TREE | {"registered_model_meta": f"model_name: fraud\nmodel_version: '{n}'\n"} for n in (1, 2)]
    assert digest(downloads[0]) == digest(downloads[1]) == digest(TREE)


def test_logging_a_model_again_keeps_its_digest() -> None:
    assert LOGGED_AGAIN != MLMODEL
    assert digest(TREE | {"MLmodel": LOGGED_AGAIN}) == digest(TREE)


@pytest.mark.parametrize(
    "change",
    [
        {"model.skops": "Weights"},
        {"model.skops": ""},
        {"requirements.txt": "numpy==2.5\n"},
        {"new.txt": ""},
        {"MLmodel": MLMODEL.replace("predict_fn: predict", "predict_fn: predict_proba")},
        {"MLmodel": MLMODEL.replace("mlflow_version: 3.17.2", "mlflow_version: 3.17.3")},
        {"MLmodel": MLMODEL.replace("  artifact_path: input_example.json", "  artifact_path: other_example.json")},
        {"MLmodel": MLMODEL.replace("is_signature_from_type_hint: false", "is_signature_from_type_hint: 0")},
        {"MLmodel": MLMODEL + "metadata: {run_id: a}\n"},
        {"MLmodel": ""},
        {"code/MLmodel": MLMODEL},
        {"code/registered_model_meta": "payload, as it is not at the root"},
    ],
)
def test_any_change_of_the_payload_changes_the_digest(change: dict[str, str]) -> None:
    assert digest(TREE | change) != digest(TREE)


@pytest.mark.parametrize("path", sorted(TREE))
def test_a_file_that_is_missing_or_moved_changes_the_digest(path: str) -> None:
    rest = {other: text for other, text in TREE.items() if other != path}
    assert len({digest(TREE), digest(rest), digest(rest | {"moved/" + path: TREE[path]})}) == 3


def test_an_mlmodel_elsewhere_is_payload_to_the_last_byte() -> None:
    assert digest(TREE | {"code/MLmodel": MLMODEL}) != digest(TREE | {"code/MLmodel": LOGGED_AGAIN})


@given(st.permutations(sorted(TREE)), st.integers(min_value=1, max_value=2000))
def test_neither_order_nor_chunks_matter(order: list[str], chunk: int) -> None:
    assert digest({path: TREE[path] for path in order}, chunk) == digest(TREE)


def test_paths_are_the_same_on_every_system() -> None:
    windows = {path.replace("/", "\\"): text for path, text in TREE.items()}
    macos = {"e\u0301.txt": "x"}
    assert digest(windows) == digest({"./" + path: text for path, text in TREE.items()}) == digest(TREE)
    assert digest(macos) == digest({"\u00e9.txt": "x"})


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "a\\..\\b", "", ".", "./"])
def test_a_path_outside_the_artifact_is_refused(path: str) -> None:
    with pytest.raises(BadInput, match="not below the artifact's root"):
        digest({path: "x"})


def test_two_files_of_one_path_are_refused() -> None:
    with pytest.raises(BadInput, match=r"two files with the path 'a/b'"):
        digest({"a/b": "1", "a//b": "2"})


@pytest.mark.parametrize("tree", [{}, {"registered_model_meta": "x"}])
def test_an_artifact_without_payload_is_refused(tree: dict[str, str]) -> None:
    with pytest.raises(BadInput, match="has no files"):
        digest(tree)


@given(
    st.dictionaries(st.text("ab/: \n0", min_size=1, max_size=6), st.binary(max_size=8), min_size=1, max_size=4),
    st.dictionaries(st.text("ab/: \n0", min_size=1, max_size=6), st.binary(max_size=8), min_size=1, max_size=4),
)
def test_different_trees_have_different_digests(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    try:
        digests = digest(one), digest(other)
    except BadInput:
        return  # no trees: their paths are refused above
    normal = [{"/".join(filter(None, path.split("/"))): raw for path, raw in tree.items()} for tree in (one, other)]
    assert (digests[0] == digests[1]) == (normal[0] == normal[1])


def test_the_order_and_the_writing_of_mlmodel_do_not_matter() -> None:
    flow = "{b: [1, two], a: {c: null}, run_id: x}"
    block = "a:\n  c: ~\nb:\n- 1\n- 'two'\nmodel_id: y\n"
    assert digest({"MLmodel": flow}) == digest({"MLmodel": block})
    assert digest({"MLmodel": flow}) != digest({"MLmodel": "{b: [two, 1], a: {c: null}}"})


def test_what_only_looks_like_a_volatile_key_counts() -> None:
    """PyYAML folds this into one text, so MLflow sees no run_id here."""
    looks = 'metadata: "a\nrun_id: {}\n  c"\nflavors: 1\n'
    assert digest({"MLmodel": looks.format("one")}) != digest({"MLmodel": looks.format("two")})


BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 8)}]\n" for n in range(20)
)


@pytest.mark.parametrize(
    "text",
    [
        "run_id: [unclosed",
        "a list\n- of: things\n",
        "- run_id: x\n",
        "just text",
        "run_id: &a [*a]\nloop: &b [*b]\n",
        BOMB,
        "[" * 5000,
        "run_id: x\nlies: !!bool 7\n",
        "run_id: x\nlies: !!timestamp soon\n",
        "run_id: x\ncode: !!python/object/apply:os.system [true]\n",
        "run_id: x\nbig: " + "7" * 5000,
        "run_id: x\n# " + "x" * MLMODEL_BYTES,
        b"\xff\xfe\x00run_id",
        "\x00",
    ],
)
def test_an_mlmodel_that_cannot_be_read_counts_as_it_stands(text: str | bytes) -> None:
    raw = text.encode() if isinstance(text, str) else text
    digests = [digest({"MLmodel": raw, "w": "1"}, 4096), digest({"MLmodel": raw + b" ", "w": "1"}, 4096)]
    assert digests[0] == digest({"MLmodel": raw, "w": "1"}, 5000)
    assert digests[0] != digests[1]


def _logged(code: str, uri: str, path: str = "artifacts/weights.pt") -> str:
    mlmodel = f"""\
flavors:
  python_function:
    model_code_path: {code}
    artifacts:
      weights: {{path: {path}, uri: {uri}}}
"""
    return artifact_digest({"MLmodel": lambda: [mlmodel.encode()], "weights": lambda: [b"1"]})


def test_where_things_lay_on_the_logging_machine_is_left_out():
    assert _logged("/home/ada/model.py", "/x/a/weights.pt") == _logged("/srv/ci/model.py", "/x/b/weights.pt")


def test_which_code_and_which_artifact_is_loaded_is_not():
    assert _logged("/home/ada/model.py", "/x/a") != _logged("/home/ada/other.py", "/x/a")
    assert _logged("/m.py", "/x/a") != _logged("/m.py", "/x/a", path="artifacts/others.pt")
