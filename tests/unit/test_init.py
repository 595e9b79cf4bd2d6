"""`sluice init`, `sluice lint` and `sluice schema` on folders."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.commands.init import Answers, _move, init, repo_files
from pipelines.commands.lint import exit_code, lint, notes_data, render_notes
from pipelines.commands.schema import KINDS, schema_of, write_schemas
from policies.config_repo_documents import parse_repo
from policies.errors import BadInput


@pytest.mark.parametrize(
    "answers",
    [
        Answers(),
        Answers(models=("fraud", "Fraud / EU", "yes", "model: #1", "模型", "../../etc/passwd", 'say "hi"')),
        Answers(environment="on", trigger_kind="alias", trigger="champion"),
        Answers(environment="eu-1", trigger_kind="tag", trigger="deploy=yes: please # now"),
        Answers(registry="https://mlflow.example:443/x", ray="http://ray:8265", prometheus="http://prom:9090/p"),
        Answers(grpc=True, ray="http://ray:8265"),
        Answers(scrape_interval=timedelta(seconds=30), look_interval=timedelta(minutes=1)),
    ],
)
def test_what_init_writes_has_nothing_to_report(tmp_path: Path, answers: Answers) -> None:
    written = init(tmp_path / "new" / "repo", answers)
    notes = lint(tmp_path / "new" / "repo")
    assert notes == ()
    assert render_notes(notes) == "nothing to report\n"
    assert exit_code(notes) == 0
    assert {p.relative_to(tmp_path / "new" / "repo").as_posix() for p in _files(tmp_path)} == set(written)


def test_the_repo_says_what_was_answered() -> None:
    answers = Answers(environment="eu", trigger_kind="alias", trigger="champion", models=("Fraud / EU", "spam"))
    repo = parse_repo({path: text for path, text in repo_files(answers).items() if path != "README.md"})
    assert str(repo.sluice.environments["eu"].trigger) == "alias @champion"
    assert [model.name for model in repo.models.values()] == ["Fraud / EU", "spam"]
    assert set(repo.policies) == {"default"}
    assert set(repo.slos) == {"errors", "latency"}


def test_a_fresh_clone_keeps_what_it_has(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "models").mkdir()
    written = init(tmp_path, Answers())
    assert "README.md" not in written
    assert (tmp_path / "README.md").read_text() == "mine"
    assert lint(tmp_path) == ()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".git", "README.md", "models", "policies", "sluice.yaml"]


@pytest.mark.parametrize(
    "there", ["sluice.yaml", "models/fraud.yaml", "policies/x", "environments/production/serve.yaml"]
)
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).write_text("mine")
    with pytest.raises(BadInput, match="is there already and is not overwritten"):
        init(tmp_path, Answers())
    assert [p.relative_to(tmp_path).as_posix() for p in _files(tmp_path)] == [there]


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "sluice.yaml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="is not overwritten"):
        init(tmp_path, Answers())
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "repo").write_text("mine")
    with pytest.raises(BadInput, match="is no folder"):
        init(tmp_path / "repo", Answers())


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (Answers(environment="Prod/EU"), "for example prod-eu"),
        (Answers(environment="../x"), "is no name for an environment"),
        (Answers(trigger="Prod"), "trigger.stage: should be 'Staging' or 'Production'"),
        (Answers(trigger_kind="tag", trigger="deploy"), "trigger.tag: should be key=value"),
        (Answers(ray="ray:8265"), "ray.dashboard: should be an address like http"),
        (Answers(registry="http://me:hunter2@mlflow"), "registry.tracking_uri: should be an address like http"),
        (Answers(look_interval=timedelta(milliseconds=100)), "look_interval: 0.1s is shorter than a look takes"),
        (Answers(scrape_interval=timedelta(hours=1)), "nothing could ever pass"),
        (Answers(models=("a\nb",)), "control character"),
        (Answers(models=("Fraud Model/EU", "fraud-model-eu-b3c4efc5")), "two models have the same safe name"),
    ],
)
def test_answers_that_lint_would_refuse_write_nothing(tmp_path: Path, answers: Answers, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        init(tmp_path / "repo", answers)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_move_that_fails_takes_the_others_back(tmp_path: Path) -> None:
    staged, folder = tmp_path / "staged", tmp_path / "repo"
    for path in (staged / "models", folder / "sluice.yaml" / "in the way"):
        path.mkdir(parents=True)
    (staged / "sluice.yaml").write_text("x")
    with pytest.raises(IsADirectoryError):
        _move(staged, folder)
    assert [p.name for p in folder.iterdir()] == ["sluice.yaml"]
    assert sorted(p.name for p in staged.iterdir()) == ["models", "sluice.yaml"]


def test_lint_says_everything_at_once_and_where(tmp_path: Path) -> None:
    init(tmp_path, Answers(models=("fraud",)))
    model = tmp_path / "models" / "fraud.yaml"
    model.write_text(model.read_text().replace("cpus: 1", "cpu: 1").replace("rollout: default", "rollout: deafult"))
    (tmp_path / "models" / "link.yaml").symlink_to(model)
    (tmp_path / "models" / "latin.yaml").write_bytes(b"name: caf\xe9")
    (tmp_path / "policies" / "mine.yml").write_text("x")
    (tmp_path / "environments").symlink_to(tmp_path / "models")
    notes = lint(tmp_path)
    text = render_notes(notes)
    assert "models/fraud.yaml:12: error: settings.cpu: is not known here; did you mean cpus?" in text
    assert "models/link.yaml: error" in text
    assert "symbolic link" in text
    assert "models/latin.yaml' is not UTF-8" in text
    assert "policies/mine.yml: warning: is not read: rename it to policies/mine.yaml" in text
    assert "environments: error" in text
    assert text.endswith("4 errors and 1 warning\n")
    assert exit_code(notes) == 1
    assert notes_data(notes)["schema"] == 1
    assert {"severity", "file", "line", "field", "message"} == set(notes_data(notes)["notes"][0])
    json.dumps(notes_data(notes))


def test_lint_of_an_empty_folder_says_how_to_begin(tmp_path: Path) -> None:
    (note,) = lint(tmp_path)
    assert str(note) == "sluice.yaml: error: is missing: it names the environments; `sluice init` writes one"
    with pytest.raises(BadInput, match="is no folder"):
        lint(tmp_path / "nowhere")


def test_schemas_are_written_for_every_kind(tmp_path: Path) -> None:
    files = write_schemas(tmp_path / "schemas")
    assert [file.name for file in files] == [f"{kind}.schema.json" for kind in KINDS]
    assert files[0].read_text() == schema_of(KINDS[0])
    assert write_schemas(tmp_path / "schemas") == files, "again is no mistake"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
