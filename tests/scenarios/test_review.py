"""A pull request on a real Git repo, reviewed as `sluice review` does it; and what strangers put into one."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.commands.review import MOST_ROLLOUTS, People, Review, review
from pipelines.commands.review_comment import MOST_BYTES, comment, difference
from pipelines.commands.review_posting import forge_target, posted
from pipelines.commands.review_words import as_data, github, text, unobeyed
from policies.capacity import Capacity, Node
from policies.documents import RayTarget
from policies.errors import BadInput, Retry, Stalled
from policies.impact import Effect, Impact
from policies.notes import Severity
from policies.pull_requests import Approval, CommitStatus, PullRequest, PullRequestState, StatusState
from policies.release import Outcome
from policies.secret_values import HIDDEN
from registry_bridge.local_repo import LocalRepo
from tests.fakes.config_clone import ConfigClone
from tests.simulation.world import BAD, MODEL_DOCUMENT, POLICY, World

GOLDEN = Path(__file__).parent / "golden" / "review.md"
NOW = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)
RULES = """\
apiVersion: sluicegate/v1
kind: RepoRules
max_replicas: 20
min_canary: 30s
slo_approvers: [ada]
owners:
  - paths: [policies/]
    owners: [grace]
"""
MODEL = MODEL_DOCUMENT % ("fraud", 1)
QUICK = POLICY % "[10, 50]"
STRICT = (
    QUICK.replace(
        "step: {min_duration: 20s, max_duration: 5m}",
        "step: {min_duration: 20s, max_duration: 40s, min_requests: 60000}",
    )
    + "on_inconclusive: rollback\n"
)


@pytest.fixture(scope="module")
def history() -> dict[str, str]:
    """What a config repo looks like once v1 serves, v2 was rolled back and v3 was promoted."""
    world = World(11)
    for truth in ({}, {"truth": BAD}, {}):
        world.promote(world.register(**truth))
        world.settle()
    files = dict(world.repo.read().files)
    local = files["sluice.yaml"].replace("http://production:", "http://127.0.0.1:")
    return {**files, "sluice.yaml": local, "policies/rules.yaml": RULES}


class Proposed:
    """A clone in which a branch changes files of the main branch."""

    def __init__(self, folder: Path, before: Mapping[str, str]) -> None:
        folder.mkdir()
        self.clone = ConfigClone(folder)
        self.base = self.clone.commit(before)
        self.clone.branch("main", self.base)

    def change(self, files: Mapping[str, str | bytes | None], **more: Any) -> str:
        commit = self.clone.commit(files, self.base, **more)
        self.clone.branch("change", commit)
        return commit

    def review(self, files: Mapping[str, str | bytes | None], people: People | None = None, **more: Any) -> Review:
        head = self.change(files, **more)
        return review(LocalRepo(self.clone.folder), "main", head, people or People(author="mallory"), NOW)


@pytest.fixture(scope="module")
def proposed(tmp_path_factory: pytest.TempPathFactory, history: dict[str, str]) -> Proposed:
    """One clone for all that only ever propose: each change is a commit of its own."""
    return Proposed(tmp_path_factory.mktemp("proposed") / "clone", history)


def effects(found: Impact) -> set[Effect]:
    return {effect for each in found.deployments for effect in each.effects}


def shown(made: str) -> tuple[str, list[str]]:
    """The comment as a forge renders it: its HTML, and every link, image and piece of HTML that is not ours."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(made)
    inner = [t for token in tokens for t in (token, *(token.children or ()))]
    odd = [t.content or t.tag for t in inner if t.type in {"link_open", "image", "html_inline", "html_block"}]
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(made)
    return html, [content for content in odd if not _OURS.fullmatch(content.strip())]


_OURS = re.compile(
    r"<!-- sluicegate:review -->|<details>\n<summary>serve.yaml of [a-z-]+: .*</summary>|</details>|</?sub>|<br>"
)


# --- a change, as people make them --------------------------------------------------------------------------------

CHANGE = {
    "policies/quick.yaml": STRICT,
    "models/fraud.yaml": MODEL.replace("cpus: 1", "cpus: 2")
    + "max_ongoing_requests: 16\nautoscaling:\n  min_replicas: 2\n  max_replicas: 30\n",
}


def test_a_change_of_a_policy_and_a_model_is_reviewed_whole(proposed: Proposed) -> None:
    found = proposed.review(CHANGE)
    assert [(f.rule, f.note.file, f.note.line) for f in found.findings if f.note.severity is Severity.ERROR] == [
        ("max_replicas", "models/fraud.yaml", 11),
        ("owners", "policies/quick.yaml", None),
    ]
    (environment,) = found.environments
    assert environment.rolled_out == ("fraud",)
    assert effects(environment.at_once) == {Effect.IN_PLACE}
    assert environment.in_the_end is not None
    assert effects(environment.in_the_end) == {Effect.STARTS, Effect.STOPS, Effect.MOVES_TRAFFIC}
    outcomes = [
        (one.past.version, one.past.outcome, one.replay.outcome if one.replay else None) for one in found.rejudged
    ]
    assert outcomes[:2] == [
        (3, Outcome.PROMOTED, Outcome.ROLLED_BACK),
        (2, Outcome.ROLLED_BACK, Outcome.ROLLED_BACK),
    ]
    assert found.unsaid == ()


def test_the_comment_is_the_golden_one(proposed: Proposed) -> None:
    """Delete the golden file to have it written anew, and read what changed."""
    made = re.sub(r"\b[0-9a-f]{12}\b", "000000000000", comment(proposed.review(CHANGE)))
    if not GOLDEN.exists():
        GOLDEN.write_text(made, encoding="utf-8")
    assert made == GOLDEN.read_text(encoding="utf-8")


def test_a_new_model_serves_nothing_yet_and_that_is_said(proposed: Proposed) -> None:
    found = proposed.review({"models/spam.yaml": MODEL_DOCUMENT % ("spam", 1)})
    (environment,) = found.environments
    assert environment.remarks == ("spam is new: nothing starts before a version is at stage Production",)
    assert "spam is new" in comment(found)
    assert "serve.yaml of" not in comment(found)


def test_a_cluster_is_asked_where_it_was_before_the_change(proposed: Proposed, history: dict[str, str]) -> None:
    asked = []

    def ask(target: RayTarget) -> Capacity:
        asked.append(target.dashboard)
        return Capacity(nodes=(Node(total={"CPU": 2.0}, free={"CPU": 0.0}),))

    moved = history["sluice.yaml"].replace("127.0.0.1:8265", "127.0.0.1:6666")
    head = proposed.change({**CHANGE, "sluice.yaml": moved})
    found = review(LocalRepo(proposed.clone.folder), "main", head, People(), NOW, ask)
    assert asked == ["http://127.0.0.1:8265"]
    assert "the cluster has 2 CPU" in comment(found)

    def away(_target: RayTarget) -> Capacity:
        raise Retry("no route to host")

    found = review(LocalRepo(proposed.clone.folder), "main", head, People(), NOW, away)
    assert "the cluster was not asked what it has: no route to host" in comment(found)


def test_what_changes_nothing_that_serves_says_so(proposed: Proposed) -> None:
    found = proposed.review({"models/README.md": "# Ours\n"})
    assert (found.failures, found.warnings, found.environments, found.rejudged) == (0, 0, (), ())
    assert "nothing to object to" in comment(found)
    assert shown(comment(found))[1] == []


def test_what_others_merged_meanwhile_is_not_this_changes_doing(proposed: Proposed) -> None:
    head = proposed.change({"models/README.md": "# Ours\n"})
    theirs = proposed.clone.commit({"policies/quick.yaml": STRICT}, proposed.base)
    found = review(LocalRepo(proposed.clone.folder), theirs, head, People(), NOW)
    assert found.changed == ("models/README.md",)
    assert found.base == proposed.base


def test_approvals_count_from_whom_the_rules_name(proposed: Proposed) -> None:
    people = People(author="mallory", approvers=frozenset({"Grace"}))
    assert [f.rule for f in proposed.review({"policies/quick.yaml": STRICT}, people).findings] == []
    own = People(author="grace", approvers=frozenset({"grace"}))
    assert [f.rule for f in proposed.review({"policies/quick.yaml": STRICT}, own).findings] == ["owners"]


def test_the_rules_of_before_judge_a_change_of_the_rules(proposed: Proposed) -> None:
    found = proposed.review({**CHANGE, "policies/rules.yaml": RULES.replace("20", "200").replace("grace", "mallory")})
    assert {f.rule for f in found.findings if f.note.severity is Severity.ERROR} == {"max_replicas", "owners"}


def test_rules_that_could_not_be_read_before_are_judged_by_their_mended_selves(
    tmp_path: Path, history: dict[str, str]
) -> None:
    proposed = Proposed(tmp_path / "clone", {**history, "policies/rules.yaml": "max_replica: 1\n"})
    found = proposed.review({"policies/rules.yaml": RULES})
    assert "judged by its own rules" in " ".join(found.unsaid)
    assert [f.rule for f in found.findings] == ["owners"]


def test_an_slo_with_another_target_is_judged_by_the_recorded_counts(
    proposed: Proposed, history: dict[str, str]
) -> None:
    slo = _built_in("slo-errors.yaml").replace("target: 0.99", "target: 0.9999")
    found = proposed.review({"policies/errors.yaml": slo}, People(approvers=frozenset({"grace"})))
    assert found.findings == ()
    assert [one.held_to.words for one in found.rejudged][:1] == ["SLO errors"]
    newest = found.rejudged[0].replay
    assert newest is not None
    assert newest.outcome is not Outcome.PROMOTED
    records = [path for path in history if path.startswith("history/")]
    assert len(found.rejudged) == min(len(records), MOST_ROLLOUTS)


def test_an_slo_that_was_not_counted_then_is_left_out_and_that_is_said(proposed: Proposed) -> None:
    found = proposed.review({"models/fraud.yaml": MODEL.replace("[errors]", "[errors, latency]")})
    assert found.rejudged
    for one in found.rejudged:
        assert "the SLO latency was not counted then" in " ".join(one.unknown)
    only = proposed.review({"models/fraud.yaml": MODEL.replace("[errors]", "[latency]")})
    assert [one.replay for one in only.rejudged] == [None] * len(only.rejudged)


def test_records_of_the_change_itself_are_no_evidence(proposed: Proposed, history: dict[str, str]) -> None:
    forged = {path: None for path in history if path.startswith("history/")}
    assert len(proposed.review({**forged, "policies/quick.yaml": STRICT}).rejudged) == len(forged)


def test_a_broken_head_is_linted_and_the_rest_is_not_made_up(proposed: Proposed) -> None:
    found = proposed.review({"models/fraud.yaml": MODEL + "cpu: 1\n"})
    assert [(n.file, n.line, n.field) for n in found.lint] == [("models/fraud.yaml", 8, "cpu")]
    assert (found.environments, found.rejudged) == ((), ())
    assert "cannot be read after this change" in comment(found)


def test_rules_that_a_broken_document_keeps_from_being_checked_are_named(proposed: Proposed) -> None:
    many = MODEL + "autoscaling: {max_replicas: 30}\n"
    found = proposed.review({"models/fraud.yaml": many, "models/new.yaml": MODEL + "cpu: 1\n"})
    assert [f.rule for f in found.findings] == []
    said = "rules that were not checked, for not every document can be read: max_replicas, min_canary, slo_approvers"
    assert said in found.unsaid
    assert f"not looked at: {said}" in "\n".join(text(found))
    assert said in comment(found).replace("\\", "")


def _built_in(name: str) -> str:
    from pipelines.defaults import built_in_documents

    return built_in_documents()[name]


# --- strangers ----------------------------------------------------------------------------------------------------

NASTY = "models/::error::`x`|<img src=x>@ada\n##[error]\u202e![i](http:evil).yaml"


def test_names_of_strangers_are_shown_and_obeyed_by_nobody(proposed: Proposed) -> None:
    token = "ghp_" + "a1B2" * 10
    found = proposed.review({NASTY: "kind: Model\n", "::set-output name=x::y": token, "##[warning]x": token})
    assert found.failures >= 3
    for line in (*unobeyed(text(found)), *github(found)):
        assert "##[" not in line
        assert line.startswith(("::error file=", "::warning file=", "::notice title=")) or not line.lstrip().startswith(
            "::"
        )
    for line in github(found):
        if line.startswith("::"):
            head, _, message = line[2:].partition("::")
            assert not message.startswith("error")
            assert head.count(" ") >= 1
    made = comment(found)
    html, odd = shown(made)
    assert odd == []
    assert not re.search(r"@ada|https?://", re.sub(r"<code>.*?</code>", "", html))
    assert token not in made + as_data(found) + "\n".join(text(found))
    assert json.loads(as_data(found))["reviews"][0]["failures"] == found.failures
    assert "##[" not in as_data(found)


def test_a_suspicion_of_lint_hides_no_key_on_the_same_line(proposed: Proposed) -> None:
    odd = MODEL.replace("cpus: 1", "cpus: 1\n  env: {A: q7Zt0VbX2mKp9RwL4sYd6NfHc8Gj}  # ghp_" + "a1B2" * 10)
    found = proposed.review({"models/fraud.yaml": odd})
    assert [f.rule for f in found.findings if f.note.severity is Severity.ERROR] == ["secrets"]


GITHUB, AWS, PASSWORD = "ghp_" + "a1B2" * 9, "AKIA" + "IOSFODNN7EXAMPLE", "hunter2hunter2"
SECRET_SETTINGS = f"""\
  environment: uv
  packages: ["x @ https://user:{PASSWORD}@git.example.com/x.whl"]
  env: {{NOTE: "{GITHUB}", HARMLESS: {AWS}, DB_PASSWORD: {PASSWORD}}}
  features:
    entry_point: "a:b"
    key: user
    defaults: {{f: 1.0}}
    options: {{url: "redis://:{PASSWORD}@h/0", t: glpat-{PASSWORD}x9}}
"""


@pytest.mark.parametrize(
    "change",
    [
        {"models/fraud.yaml": MODEL + SECRET_SETTINGS},
        {"models/fraud.yaml": MODEL.replace("[errors]", f"[{GITHUB}]")},
        *(
            {"models/fraud.yaml": MODEL + line}
            for line in (
                f"route: /{AWS}\n",
                f"request_timeout: {AWS}\n",
                f"capture: {{to: 's3://{AWS}'}}\n",
                f"{GITHUB}: 1\n",
                f"  environment: {GITHUB}\n",
                f"  image: 'https://user:{PASSWORD}@{'x' * 60}'\n",
            )
        ),
        {"models/fraud.yaml": MODEL.replace("rollout: quick", f"rollout: {AWS}")},
        {"models/new.yaml": f"apiVersion: sluicegate/v1\nkind: {GITHUB}\n"},
        {"models/new.yaml": f"apiVersion: sluicegate/v1\nkind: https://longer-than-most:{PASSWORD}@example.com\n"},
        {f"models/{GITHUB}.yaml": "kind: Model\n"},
    ],
)
def test_no_form_of_a_review_repeats_what_looks_like_a_secret(
    proposed: Proposed, change: Mapping[str, str | bytes | None]
) -> None:
    commit = proposed.change(change)
    done = {form: run(proposed, "--head", commit, "--format", form) for form in ("text", "markdown", "github", "json")}
    for form, said in done.items():
        assert said.exit_code == 2, form
        assert not [secret for secret in (GITHUB, AWS, PASSWORD) if secret in said.output], form
        assert "models/" in said.output, form


def test_that_a_secret_changes_is_seen_without_either_of_them(proposed: Proposed) -> None:
    (environment,) = proposed.review(CHANGE).environments
    old, new = ({"applications": [{"name": "a", "env": {"NOTE": key}}]} for key in (GITHUB, GITHUB[:-1] + "x"))
    shown = list(difference(dataclasses.replace(environment, before=old, after=new)))
    assert [line for line in shown[2:] if line[0] in "+-"] == [f"-      NOTE: {HIDDEN}", f"+      NOTE: {HIDDEN}"]


def test_two_names_that_would_look_the_same_are_told_apart(proposed: Proposed) -> None:
    found = proposed.review({"models/evil.yaml": "kind: Nope\n", "models/\u202eevil.yaml": "kind: Nope\n"})
    for made in (comment(found), "\n".join(github(found))):
        assert "models/evil.yaml" in made
        assert "models/\\u202eevil.yaml" in made
        assert "\u202e" not in made


def test_links_submodules_bombs_and_huge_files_are_findings_and_never_followed(proposed: Proposed) -> None:
    bomb = "a: &a [x]\n" + "".join(f"{c}: [*a, *a]\n" for c in "bcdef")
    found = proposed.review(
        {
            "models/link.yaml": "/etc/passwd",
            "models/sub": "a" * 40,
            "models/bomb.yaml": bomb,
            "models/huge.yaml": "x" * 1_100_000,
            "models/binary.yaml": b"\xff\xfe\0",
        },
        modes={"models/link.yaml": "120000", "models/sub": "160000"},
    )
    said = {note.file: note.message for note in found.lint if note.severity is Severity.ERROR}
    assert "symbolic link" in said["models/link.yaml"]
    assert "submodule" in said["models/sub"]
    assert "anchor" in said["models/bomb.yaml"]
    assert "bytes" in said["models/huge.yaml"]
    assert "not UTF-8" in said["models/binary.yaml"]
    assert "root:" not in comment(found)
    assert found.unsaid[-1] == "3 files were not searched for secrets: links, or more than can be read"


def test_more_than_anybody_reads_is_refused_before_it_is_read(proposed: Proposed) -> None:
    with pytest.raises(Stalled, match="split it"):
        proposed.review({f"models/m{n}.yaml": "x: [" + "1, " * 300_000 + "]\n" for n in range(20)})


def test_a_comment_is_cut_to_what_forges_take_and_says_so(proposed: Proposed) -> None:
    many = {f"models/{'x' * 100}{n}.yaml": "kind: |\n  a\n" for n in range(400)}
    found = proposed.review({**many, **CHANGE})
    made = comment(found)
    assert len(made.encode()) <= MOST_BYTES
    assert "more lines are not shown here" in made
    assert made.count("```") % 2 == 0


def test_many_environments_do_not_make_a_comment_too_long(proposed: Proposed) -> None:
    found = proposed.review(CHANGE)
    made = comment(dataclasses.replace(found, environments=found.environments * 600))
    assert len(made.encode()) <= MOST_BYTES
    assert "more parts are not shown here" in made


# --- the command ----------------------------------------------------------------------------------------------


def run(proposed: Proposed, *options: str) -> Any:
    return CliRunner().invoke(app, ["review", str(proposed.clone.folder), "--base", "main", *options])


def test_the_command_says_by_its_exit_code_what_to_do(proposed: Proposed, tmp_path: Path) -> None:
    proposed.change({"models/README.md": "# Ours\n"})
    assert run(proposed, "--head", "change").exit_code == 0
    proposed.change(CHANGE)
    file = tmp_path / "comment.md"
    done = run(proposed, "--head", "change", "--format", "github", "--comment", str(file))
    assert done.exit_code == 2
    assert "::error file=models/fraud.yaml,line=11,title=sluice%3A max_replicas::" in done.stdout
    assert file.read_text(encoding="utf-8").startswith("<!-- sluicegate:review -->\n### Sluicegate review: 2 failures")
    assert [path.name for path in tmp_path.glob("comment*")] == ["comment.md"]


def test_what_cannot_be_reviewed_is_an_error_and_leaves_no_comment(proposed: Proposed, tmp_path: Path) -> None:
    done = run(proposed, "--head", "nothing", "--comment", str(tmp_path / "comment.md"))
    assert (done.exit_code, "this clone has no commit 'nothing'" in done.stderr) == (1, True)
    assert not (tmp_path / "comment.md").exists()


@pytest.mark.parametrize("form", ["text", "markdown", "github", "json"])
def test_every_form_names_the_failures(proposed: Proposed, form: str) -> None:
    proposed.change(CHANGE)
    done = run(proposed, "--head", "change", "--format", form)
    assert done.exit_code == 2
    assert "30 replicas are more than the 20" in done.stdout


# --- the forge ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Shown:
    """A forge that keeps what it was told."""

    approved: tuple[Approval, ...] = ()
    comments: list[tuple[int, str, str]] = dataclasses.field(default_factory=list)
    statuses: list[tuple[str, CommitStatus]] = dataclasses.field(default_factory=list)

    def approvals(self, _number: int) -> tuple[Approval, ...]:
        return self.approved

    def comment(self, number: int, marker: str, body: str) -> str:
        self.comments.append((number, marker, body))
        return "https://forge/comment"

    def set_status(self, commit: str, status: CommitStatus) -> None:
        self.statuses.append((commit, status))


def pull(head: str) -> PullRequest:
    return PullRequest(
        number=7,
        url="",
        branch="change",
        base="main",
        head=head,
        state=PullRequestState.OPEN,
        title="",
        body="",
        author="mallory",
    )


def test_a_forge_is_shown_the_comment_and_the_status_and_only_fresh_approvals_count(proposed: Proposed) -> None:
    head = proposed.change({"policies/quick.yaml": STRICT})
    repo = LocalRepo(proposed.clone.folder)
    fresh = Shown(approved=(Approval(by="grace", commit=head),))
    made = posted(fresh, pull(head), lambda people: review(repo, "main", head, people, NOW))
    assert made.failures == 0
    ((number, marker, body),) = fresh.comments
    assert (number, marker, body.startswith("### Sluicegate review")) == (7, "sluicegate:review", True)
    assert [(commit, s.state, s.context) for commit, s in fresh.statuses] == [
        (head, StatusState.SUCCESS, "sluice/review")
    ]
    stale = Shown(approved=(Approval(by="grace", commit="0" * 40), Approval(by="ada", commit=None)))
    posted(stale, pull(head), lambda people: review(repo, "main", head, people, NOW))
    assert [s.state for _, s in stale.statuses] == [StatusState.FAILURE]


def test_a_review_that_could_not_be_made_leaves_no_older_success(proposed: Proposed) -> None:
    shown = Shown()

    def fails(_people: People) -> Review:
        raise Stalled("this clone is not whole")

    with pytest.raises(Stalled):
        posted(shown, pull(proposed.base), fails)
    assert [s.state for _, s in shown.statuses] == [StatusState.ERROR]
    assert shown.comments == []


def test_a_change_cannot_choose_where_the_token_is_sent(tmp_path: Path, history: dict[str, str]) -> None:
    forge = "forge: {kind: gitea, url: %s, repository: ml/config}\n"
    proposed = Proposed(tmp_path / "clone", {**history, "sluice.yaml": history["sluice.yaml"] + forge % "https://ours"})
    proposed.change({"sluice.yaml": history["sluice.yaml"] + forge % "https://evil"})
    repo = LocalRepo(proposed.clone.folder)
    assert forge_target(repo, "main").url == "https://ours"
    bare = Proposed(tmp_path / "bare", history)
    with pytest.raises(BadInput, match="names no forge"):
        forge_target(LocalRepo(bare.clone.folder), "main")
