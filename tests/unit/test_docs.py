"""What the docs promise is so: what is generated is up to date, what is named exists, and what exists is named."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from pipelines import settings
from pipelines.cli import app
from pipelines.commands.up import WHY
from pipelines.defaults import built_in_documents
from pipelines.generated_docs import GENERATED, refreshed
from policies.commit_message import message
from policies.config_repo_documents import read_repo, with_defaults
from policies.consistency import check
from policies.errors import BadInput, Conflict, Retry, Stalled
from policies.layout import FOLDERS
from policies.release import CauseKind, Phase
from policies.rollout import TRANSITIONS
from policies.schemas import schema
from policies.slo import LATENCY_BUCKETS_MS
from policies.verdict import VerdictKind
from policies.webhooks import Outcome as WebhookOutcome
from serving_runtime import front_telemetry, telemetry
from serving_runtime.callers import Reason
from serving_runtime.outcomes import CaptureOutcome, Joint, Outcome, UserOutcome

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
}
README, ARCHITECTURE, METRICS = PAGES["README.md"], PAGES["ARCHITECTURE.md"], PAGES["docs/metrics.md"]
USERS = "".join(text for name, text in PAGES.items() if name != "ARCHITECTURE.md")
PACKAGES = ("policies", "registry_bridge", "serving_runtime", "pipelines")
MEASURING = (telemetry, front_telemetry)
COMMANDS: Mapping[str, Any] = typer.main.get_group(app).commands


def blocks(language: str, *names: str) -> Iterator[tuple[str, str]]:
    """Every fenced block of that language, with the page it stands on; indented ones too."""
    for name in names or PAGES:
        for found in re.finditer(rf"^( *)```{language}\n(.*?)^\1```", PAGES[name], re.MULTILINE | re.DOTALL):
            yield name, "\n".join(line.removeprefix(found[1]) for line in found[2].splitlines())


def test_the_reason_of_a_500_is_found_by_one_command_everywhere() -> None:
    said = {page: re.findall(r"grep -r[^`\n]* REQUEST_ID", text) for page, text in PAGES.items()}
    assert {page: set(found) for page, found in said.items() if found} == {
        "README.md": {WHY},
        "docs/operations.md": {WHY},
    }


# --- what is generated --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERATED)
def test_what_is_generated_is_up_to_date(name: str) -> None:
    assert refreshed(PAGES[name], GENERATED[name]) == PAGES[name], "run python -m pipelines.generated_docs"


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(BadInput, match="generated: signals"):
        refreshed("nothing here", {"signals": lambda: ""})


def test_only_what_is_between_the_markers_changes() -> None:
    page = "before\n<!-- generated: x -->\nold\n<!-- end: x -->\nafter\n"
    once = refreshed(page, {"x": lambda: "new\n"})
    assert once == "before\n<!-- generated: x -->\n\nnew\n\n<!-- end: x -->\nafter\n"
    assert refreshed(once, {"x": lambda: "new\n"}) == once


def test_the_diagram_has_every_transition() -> None:
    (_, drawn) = next(blocks("mermaid", "ARCHITECTURE.md"))
    arrows = re.findall(r"^    (\w+) --> (\w+): (\w+)$", drawn, re.MULTILINE)
    assert {(before, signal): after for before, after, signal in arrows} == {
        (before.value, signal.name): after.value for (before, signal), after in TRANSITIONS.items()
    }


@pytest.mark.parametrize("kind", ["Sluice", "Model", "Ensemble", "RolloutPolicy", "RepoRules"])
def test_every_field_that_people_write_has_a_meaning(kind: str) -> None:
    rows = GENERATED["docs/config-repo.md"][kind]().splitlines()[2:]
    assert rows
    assert [row for row in rows if not row.split("|")[3].strip()] == []


# --- the command --------------------------------------------------------------------------------------------------


def flags(command: Any) -> set[str]:
    return {name for option in command.params for name in option.opts if name.startswith("--")}


def documented() -> dict[str, set[str]]:
    """The README's table: options by command."""
    rows = re.findall(r"^\| `sluice ([\w-]+)[^`]*` \|[^|]*\|([^|]*)\|$", README, re.MULTILINE)
    return {name: set(re.findall(r"`(--[\w-]+)`", cell)) for name, cell in rows}


def test_the_readme_has_every_command_with_its_options_and_no_others() -> None:
    assert documented() == {name: flags(command) for name, command in COMMANDS.items()}


def test_every_option_and_command_says_what_it_is() -> None:
    for name, command in COMMANDS.items():
        assert command.help, name
        assert [p.name for p in command.params if not getattr(p, "help", "")] == [], name


def command_lines() -> list[tuple[str, str]]:
    """Every `sluice ...` of the pages' shell blocks, continuation lines joined."""
    lines = [
        (name, line)
        for name, text in blocks("sh")
        for line in text.replace("\\\n", " ").splitlines()
        if "sluice " in line
    ]
    return [(name, line) for name, line in lines if line.strip().startswith("sluice ")]


def test_every_command_line_in_the_docs_is_one_that_the_command_takes() -> None:
    lines = command_lines()
    assert len(lines) > 5
    for name, line in lines:
        _, command, *arguments = shlex.split(line.partition(" >> ")[0], comments=True)
        with COMMANDS[command].make_context(command, arguments) as context:
            assert context.params, f"{name}: {line}"


def test_every_command_named_in_words_exists() -> None:
    named = {word for text in PAGES.values() for word in re.findall(r"`sluice ([a-z-]+)", text)}
    assert named - set(COMMANDS) == set()


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        word
        for text in PAGES.values()
        for line in re.findall(r"`(?:[A-Z_]+=\S+ )?make ([^`]*)`|^make (.*)$", text, re.MULTILINE)
        for word in "".join(line).split()
        if "=" not in word
    }
    assert {"demo", "test", "check"} <= named <= targets


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_is_explained_to_users_and_drawn(phase: Phase) -> None:
    assert phase in USERS
    assert phase in ARCHITECTURE


@pytest.mark.parametrize("kind", VerdictKind)
def test_every_verdict_is_in_the_glossary(kind: VerdictKind) -> None:
    assert kind in ARCHITECTURE


def test_every_cause_that_can_pause_says_what_to_do() -> None:
    page = PAGES["docs/operations.md"]
    todo = page[page.index("| PAUSED because of") : page.index("```sh")]
    assert {kind.value for kind in CauseKind if f"| {kind.value} |" in todo} == {
        CauseKind.INCONCLUSIVE,
        CauseKind.NO_METRICS,
        CauseKind.NOT_READY,
        CauseKind.REVERTED,
        CauseKind.ASKED,
    }


def test_every_error_of_the_doors_is_explained() -> None:
    for error in (Retry, Conflict, Stalled, BadInput):
        assert f"| `{error.__name__}` |" in ARCHITECTURE


def test_every_variable_of_the_settings_is_in_the_readme_and_no_other_of_ours_is() -> None:
    table = re.findall(r"^\| (.*) \| .* \|$", settings.__doc__ or "", re.MULTILINE)
    known = {name for cell in table for name in re.findall(r"\b[A-Z]+_[A-Z_]+\b", cell)}
    assert {"SLUICE_REPO", "SLUICE_BRANCH", "SLUICE_GIT_TOKEN", "SLUICE_CACHE"} <= known
    assert [name for name in known if f"`{name}`" not in README] == []
    sources = [path.read_text(encoding="utf-8") for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    used = {name for text in sources for name in re.findall(r"[\"'](SLUICE_[A-Z_]+)[\"']", text)}
    ours = {name for text in PAGES.values() for name in re.findall(r"\bSLUICE_[A-Z_]+\b", text)}
    assert used == ours


def test_every_trailer_is_documented_and_no_other() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "pipelines").rglob("*.py")]
    written = {key for text in sources for key in re.findall(r"\"(Sluice-[A-Z]\w+)\"", text)}
    assert written == set(re.findall(r"^\| `(Sluice-\w+)` \|", PAGES["docs/config-repo.md"], re.MULTILINE))
    assert all(f"{key}: x" in message("subject", trailers={key: "x"}) for key in written)


# --- metrics ------------------------------------------------------------------------------------------------------


def defined_metrics() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Kind and labels by name."""
    return {m.name: (m.kind.value, m.labels) for module in MEASURING for m in module.METRICS}


def metric_rows(text: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    rows = re.findall(r"^\| `?(sluice_\w+)`? \| (\w+) \| ([^|]*) \|", text, re.MULTILINE)
    return {name: (kind, tuple(re.findall(r"\w+", labels))) for name, kind, labels in rows}


def test_every_metric_is_documented_as_it_is_defined_and_no_other() -> None:
    assert metric_rows(METRICS) == defined_metrics()
    named = {name for text in PAGES.values() for name in re.findall(r"\bray_(sluice_\w+)", text)}
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in named} <= set(defined_metrics())


@pytest.mark.parametrize(
    ("metric", "outcomes"),
    [
        ("sluice_version_requests", Outcome),
        ("sluice_answers", UserOutcome),
        ("sluice_shadow", Joint),
        ("sluice_capture_requests", CaptureOutcome),
        ("sluice_refused", Reason),
    ],
)
def test_every_outcome_is_documented_and_no_other(metric: str, outcomes: Any) -> None:
    section = METRICS.split(f"## `{metric}`\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [outcome.value for outcome in outcomes]


def test_the_latency_buckets_are_documented() -> None:
    assert ", ".join(str(edge) for edge in LATENCY_BUCKETS_MS) in METRICS


# --- the map ------------------------------------------------------------------------------------------------------


def mapped() -> set[str]:
    """The paths of ARCHITECTURE's map; a folder ends in a slash."""
    tree = ARCHITECTURE.split("## The map\n\n```\n")[1].split("\n```")[0]
    above: list[str] = []
    paths = set()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        above = [*above[:depth], line.split()[0]]
        paths.add("".join(above))
    return paths


def test_every_path_on_the_map_exists() -> None:
    assert [path for path in sorted(mapped()) if not (ROOT / path).exists()] == []


def test_every_module_is_on_the_map() -> None:
    there = {p.relative_to(ROOT).as_posix() for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
    assert sorted(there - mapped()) == []


def test_every_folder_of_tests_every_benchmark_and_every_page_is_on_the_map() -> None:
    folders = {f"tests/{p.name}/" for p in (ROOT / "tests").iterdir() if p.is_dir() and (p / "__init__.py").is_file()}
    pages = {f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")}
    benchmarks = {f"benchmarks/{p.name}" for p in (ROOT / "benchmarks").glob("*.py")}
    assert sorted((folders | pages | benchmarks) - mapped()) == []


def test_every_place_in_the_code_that_is_named_is_there() -> None:
    named = re.findall(
        r"`((?:policies|registry_bridge|serving_runtime|pipelines|tests)/[\w/.]+\.py)(?:: (\w+)(?:\.(\w+))?)?",
        ARCHITECTURE,
    )
    assert len(named) > 30
    for path, *names in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        for name in filter(None, names):
            assert re.search(rf"^\s*(?:(?:async )?def|class) {name}\b|^{name}\b", source, re.MULTILINE), (
                f"{path}: {name}"
            )


def test_every_link_leads_somewhere() -> None:
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("https://") or ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_the_index_has_every_decision_under_its_title() -> None:
    folder = ROOT / "docs" / "adr"
    index = re.findall(r"^(\d+)\. \[(.*)\]\((.*)\)$", PAGES["docs/adr/README.md"], re.MULTILINE)
    assert [file for _, _, file in index] == sorted(path.name for path in folder.glob("0*.md"))
    for number, title, file in index:
        assert PAGES[f"docs/adr/{file}"].startswith(f"# {number}. {title}\n")
        assert int(file[:4]) == int(number)


# --- examples -----------------------------------------------------------------------------------------------------


def test_the_examples_make_a_config_repo_without_a_finding() -> None:
    texts = [text for _, text in blocks("yaml", "docs/config-repo.md")]
    folders = {
        "Sluice": "sluice.yaml",
        "Model": "models/{}.yaml",
        "Ensemble": "ensembles/{}.yaml",
        "RolloutPolicy": "policies/{}.yaml",
        "SLO": "policies/{}.yaml",
        "RepoRules": "policies/rules.yaml",
    }
    files = {}
    for text in texts:
        data = yaml.safe_load(text)
        name = data.get("name") or data.get("metadata", {}).get("name", "")
        files[folders[data["kind"]].format(name)] = text + "\n"
    assert len(files) == 7
    reading = read_repo(with_defaults(files, built_in_documents()))
    assert reading.notes == ()
    assert reading.repo is not None
    assert check(reading.repo) == ()


def test_the_documents_of_an_experiment_are_read_without_a_finding() -> None:
    sluice = next(text for _, text in blocks("yaml", "docs/config-repo.md") if "kind: Sluice" in text)
    model, slo = (text for _, text in blocks("yaml", "docs/experiments.md"))
    files = {"sluice.yaml": sluice, "models/offers.yaml": model, "policies/purchases.yaml": slo}
    reading = read_repo(with_defaults(files, built_in_documents()))
    assert reading.notes == ()
    assert reading.repo is not None
    assert check(reading.repo) == ()
    asked = reading.repo.slos["purchases"]
    assert asked == dataclasses.replace(reading.repo.slos["feedback"], name="purchases")


def test_the_readmes_documents_are_read() -> None:
    ((_, text),) = blocks("yaml", "README.md")
    sluice = next(text for _, text in blocks("yaml", "docs/config-repo.md") if "kind: Sluice" in text)
    reading = read_repo(with_defaults({"sluice.yaml": sluice, "models/fraud.yaml": text}, built_in_documents()))
    assert reading.notes == ()


def switches() -> list[Any]:
    """What the README's table says to write, and into which document."""
    rows = re.findall(r"^\| [^|]+ \| `(\{?\w+: [^`]+)`[^|]* \| (\w+) \| [^|]+ \|$", README, re.MULTILINE)
    return [pytest.param(yaml.safe_load(text), where, id=text) for text, where in rows]


def test_the_readme_shows_how_everything_is_switched_on() -> None:
    shown = {key for param in switches() for key in param.values[0]}
    assert {
        "batching",
        "capture",
        "sticky",
        "segments",
        "forced_version",
        "grpc",
        "access",
        "members",
        "forge",
        "webhooks",
        "review",
    } <= shown


@pytest.mark.parametrize(("lines", "where"), switches())
def test_what_the_readme_says_to_write_is_read_without_a_finding(lines: dict[str, Any], where: str) -> None:
    environment = {
        "trigger": {"stage": "Production"},
        "access": {"keys": {"file": "/etc/sluice/keys"}},
        **(lines if where == "environment" else {}),
    }
    forge = {"kind": "github", "repository": "ml/config"} if "review" in lines else None
    top = lines if where == "sluice" else {"forge": forge}
    files = {"sluice.yaml": {"kind": "Sluice", "environments": {"production": environment}, **top}}
    for name in ("fraud", "spam"):
        files[f"models/{name}.yaml"] = {"kind": "Model", "name": name, **(lines if where == "model" else {})}
    if where == "ensemble":
        files["ensembles/both.yaml"] = {"kind": "Ensemble", "name": "both", **lines}
    written = {path: yaml.safe_dump({"apiVersion": "sluicegate/v1", **data}) for path, data in files.items()}
    reading = read_repo(with_defaults(written, built_in_documents()))
    assert reading.notes == ()
    assert reading.repo is not None
    assert check(reading.repo) == ()


def test_the_documents_of_access_and_capture_are_read_without_a_finding() -> None:
    ((_, sluice),) = blocks("yaml", "docs/access.md")
    ((_, capture),) = blocks("yaml", "docs/capture.md")
    model = f"apiVersion: sluicegate/v1\nkind: Model\nname: fraud\n{capture}\n"
    reading = read_repo(with_defaults({"sluice.yaml": sluice, "models/fraud.yaml": model}, built_in_documents()))
    assert reading.notes == ()
    assert reading.repo is not None
    assert check(reading.repo) == ()


def test_the_documents_of_reviews_of_rollouts_are_read_without_a_finding() -> None:
    ((_, sluice),) = blocks("yaml", "docs/rollout-reviews.md")
    reading = read_repo(with_defaults({"sluice.yaml": sluice}, built_in_documents()))
    assert reading.notes == ()
    assert reading.repo is not None
    assert check(reading.repo) == ()


@pytest.mark.parametrize("page", ["docs/forges.md", "docs/webhooks.md"])
def test_the_documents_of_forges_and_webhooks_are_read_without_a_finding(page: str) -> None:
    ((_, lines),) = blocks("yaml", page)
    sluice = next(text for _, text in blocks("yaml", "docs/config-repo.md") if "kind: Sluice" in text)
    reading = read_repo(with_defaults({"sluice.yaml": f"{sluice}\n{lines}\n"}, built_in_documents()))
    assert reading.notes == ()
    assert reading.repo is not None
    assert reading.repo.sluice.forge or reading.repo.sluice.webhooks


def test_every_outcome_of_a_webhook_is_documented_and_no_other() -> None:
    section = PAGES["docs/webhooks.md"].split("## What is refused\n")[1]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [outcome.value for outcome in WebhookOutcome]


def test_the_readmes_python_is_python() -> None:
    sources = [text for _, text in blocks("python", "README.md")]
    assert len(sources) == 2
    for source in sources:
        ast.parse(source)


def test_the_layout_is_told_as_it_is() -> None:
    page = PAGES["docs/config-repo.md"]
    assert all(f"`{folder}" in page for folder in FOLDERS)
    assert all(
        f"<!-- generated: {kind} -->" in page
        for kind in ("Sluice", "Model", "Ensemble", "RolloutPolicy", "SLO", "Release")
    )
    assert schema("Model")["title"] == "Model"


def test_no_page_has_lines_that_are_too_long() -> None:
    long = [
        f"{name}:{number}"
        for name, text in PAGES.items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > 120 and not line.startswith("|")
    ]
    assert long == []


def test_no_page_names_a_place_on_a_machine() -> None:
    assert [name for name, text in PAGES.items() if re.search(r"(?<![\w.<>])/(work|root|home)/", text)] == []
