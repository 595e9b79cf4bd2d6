"""Which packages a version may ask for."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from policies.packages import MOST_REQUIREMENTS, NEEDED, conflicts, requirements_in

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_what_replicas_need_is_what_this_project_asks_for() -> None:
    dependencies = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    asked = {r.name: r.specifier for r in map(Requirement, dependencies)}
    assert {name: asked[name] for name in NEEDED} == NEEDED


def test_the_lines_of_a_file_that_ask_for_something() -> None:
    text = "# logged by MLflow\nmlflow==3.17.2\n\n  scikit-learn==1.7.2  # the model\nnumpy\\\n>=2\nmlflow==3.17.2\r\n"
    assert requirements_in(text) == ("mlflow==3.17.2", "scikit-learn==1.7.2", "numpy >=2")


@pytest.mark.parametrize(
    "requirements",
    [
        ("mlflow==3.17.2", "scikit-learn==1.7.2", "numpy==2.4.1", "pandas<4"),
        ("pydantic>=2", "pydantic<3,>=2.14"),
        ("numpy~=2.1", "numpy!=2.2"),
        ("torch",),
        ("ray[serve]==2.60.0",),
        ("numpy<2; python_version < '3.9'",),
        ("own @ file:///srv/wheels/own-1.0-py3-none-any.whl",),
    ],
)
def test_what_goes_together_is_taken(requirements: tuple[str, ...]) -> None:
    assert conflicts(requirements) == ()


@pytest.mark.parametrize(
    ("requirements", "says"),
    [
        (("pydantic==1.10.2",), "it asks for pydantic==1.10.2, and replicas need pydantic<3,>=2.14"),
        (("Ray[serve]==2.9.0",), "it asks for Ray[serve]==2.9.0, and replicas need Ray"),
        (("numpy<2",), "replicas need numpy>=2"),
        (("mlflow>=2,<3",), "replicas need mlflow"),
        (("scikit-learn==1.7.2", "scikit_learn==1.6.0"), "scikit-learn==1.7.2 and scikit_learn==1.6.0 exclude"),
        (("torch>=2.5", "torch<2.4"), "exclude each other"),
        (("--index-url http://somewhere/simple",), "is no requirement"),
        (("-r more.txt",), "is no requirement"),
        (("rm -rf /",), "is no requirement"),
        (tuple(f"p{n}" for n in range(MOST_REQUIREMENTS + 1)), "at most are installed"),
    ],
)
def test_what_cannot_run_is_refused_in_words(requirements: tuple[str, ...], says: str) -> None:
    assert says in "; ".join(conflicts(requirements))


@pytest.mark.parametrize("version", ["2.14", "2.14.0", "2.14.5", "2.99", "2.14.1.post1"])
def test_every_version_that_replicas_take_may_be_pinned(version: str) -> None:
    assert SpecifierSet(">=2.14,<3").contains(version)
    assert conflicts((f"pydantic=={version}",)) == ()
