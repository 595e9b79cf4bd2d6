"""What is each forge's own: protection, forks, pages, limits, approvals without a commit, Apps, certificates."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from policies.errors import Retry, Stalled
from policies.pull_requests import fresh
from registry_bridge.config_repo import ConfigRepo
from tests.contracts.forge_harness import ForgeServers, RealStage
from tests.fakes.forge.github_api import GitHubApi
from tests.fakes.forge.hub import Limit, Person
from tests.fakes.forge.server import GIT_TOKEN, ForgeServer

BRANCH = "sluice/prod/fraud"
KINDS = ["github", "gitea", "gitlab"]


@pytest.fixture(params=KINDS)
def stage(request: pytest.FixtureRequest, forge_servers: ForgeServers, tmp_path: Path) -> RealStage:
    return forge_servers.stage(request.param, tmp_path)


def only(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("stage", [kind], indirect=True)


# --- Git behind it ------------------------------------------------------------------------------------------------


@only("github")
def test_a_protected_branch_takes_pull_requests_and_no_pushes(stage: RealStage, tmp_path: Path) -> None:
    stage.hub.protect()
    repo = ConfigRepo(f"{stage.server.url}/config.git", "main", tmp_path / "cache", token=GIT_TOKEN)
    tip = repo.read()
    with pytest.raises(Stalled, match="main is protected: open a pull request"):
        repo.commit(tip.commit, {"sluice.yaml": "pushed"}, "Push")
    work = tmp_path / "work"
    for arguments in (
        ("clone", "--quiet", stage.server.clone_url, str(work)),
        ("-C", str(work), "checkout", "--quiet", "-b", BRANCH),
        ("-C", str(work), "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "--allow-empty", "-mx"),
        ("-C", str(work), "push", "--quiet", "origin", BRANCH),
    ):
        subprocess.run(["git", *arguments], check=True, capture_output=True)
    opened = stage.door.open(BRANCH, "t", "b")
    with pytest.raises(Stalled, match="approving review"):
        stage.door.merge(opened.number, opened.head)
    stage.approve(opened.number, "ada")
    merged = stage.door.merge(opened.number, opened.head)
    assert repo.read().commit == merged == stage.hub.tip("main")


def test_texts_that_conflict_are_not_merged(stage: RealStage) -> None:
    stage.hub.commit("main", {"shared.yaml": "one"})
    stage.hub.commit("side", {"shared.yaml": "two"})
    stage.hub.commit("main", {"shared.yaml": "three"})
    opened = stage.door.open("side", "t", "b")
    with pytest.raises((Stalled, Retry), match=r"(?i)not merge"):
        stage.door.merge(opened.number, opened.head)
    assert stage.hub.pull(opened.number).state == "open"


def test_what_the_forge_still_checks_is_tried_again(stage: RealStage) -> None:
    head = stage.push(BRANCH)
    opened = stage.door.open(BRANCH, "t", "b")
    stage.hub.checking = True
    with pytest.raises(Retry):
        stage.door.merge(opened.number, head)
    stage.hub.checking = False
    assert stage.door.merge(opened.number, head) == stage.hub.tip("main")


def test_a_token_that_may_not_merge_says_so(stage: RealStage) -> None:
    head = stage.push(BRANCH)
    number = stage.door.open(BRANCH, "t", "b").number
    with pytest.raises(Stalled):
        stage.door_of("reader-token").merge(number, head)
    assert stage.hub.pull(number).state == "open"


# --- who is who ---------------------------------------------------------------------------------------------------


def test_a_branch_of_that_name_in_a_fork_is_not_ours(stage: RealStage) -> None:
    foreign = stage.hub.open_from_fork(Person("mallory", may_write=False), BRANCH, "Roll out evil")
    assert stage.door.find(BRANCH) is None
    stage.push(BRANCH)
    ours = stage.door.open(BRANCH, "t", "b")
    assert ours.number != foreign.number
    assert stage.door.find(BRANCH) == ours


def test_others_who_use_our_marker_keep_their_comments(stage: RealStage) -> None:
    stage.push(BRANCH)
    number = stage.door.open(BRANCH, "t", "b").number
    stage.hub.comment(number, Person("mallory"), "<!-- sluice:review -->\nall is well")
    stage.door.comment(number, "sluice:review", "it is not")
    stage.door_of("other-token").comment(number, "sluice:review", "mine")
    stage.door.comment(number, "sluice:review", "still not")
    assert stage.comments(number) == ["all is well", "still not", "mine"]


def test_a_wrong_token_is_told_and_not_shown(stage: RealStage) -> None:
    with pytest.raises(Stalled, match="token is missing, wrong or expired") as refused:
        stage.door_of("s3cret-and-wrong").find(BRANCH)
    assert "s3cret" not in str(refused.value)


def test_a_token_may_lie_in_a_file_and_change(stage: RealStage, tmp_path: Path) -> None:
    file = tmp_path / "token"
    door = stage.door_of("", SLUICE_FORGE_TOKEN_FILE=str(file))
    with pytest.raises(Stalled, match="cannot be read"):
        door.find(BRANCH)
    file.write_text("stale\n")
    with pytest.raises(Stalled, match="401"):
        door.find(BRANCH)
    file.write_text("our-token\n")
    assert door.find(BRANCH) is None


@only("github")
def test_an_actions_token_knows_its_comment_by_being_a_bot(stage: RealStage) -> None:
    stage.hub.people["action"] = Person("github-actions[bot]", bot=True)
    stage.push(BRANCH)
    number = stage.door.open(BRANCH, "t", "b").number
    stage.hub.comment(number, Person("mallory"), "<!-- sluice:review -->\nno")
    door = stage.door_of("action")
    assert door.comment(number, "sluice:review", "one") == door.comment(number, "sluice:review", "two")
    assert stage.comments(number) == ["no", "two"]


# --- approvals ----------------------------------------------------------------------------------------------------


def test_an_approval_that_protection_dismisses_is_none(stage: RealStage) -> None:
    stage.hub.protect(dismiss_stale=True)
    stage.push(BRANCH, "one")
    number = stage.door.open(BRANCH, "t", "b").number
    stage.approve(number, "ada")
    second = stage.push(BRANCH, "two")
    assert tuple(stage.door.approvals(number)) == ()
    with pytest.raises(Stalled):
        stage.door.merge(number, second)


def test_a_stale_approval_does_not_pass_for_fresh_where_the_forge_lets_it(stage: RealStage) -> None:
    stage.hub.protect(dismiss_stale=False)
    stage.push(BRANCH, "one")
    number = stage.door.open(BRANCH, "t", "b").number
    stage.approve(number, "ada")
    second = stage.push(BRANCH, "two")
    assert fresh(stage.door.approvals(number), second) == ()
    assert stage.door.merge(number, second) == stage.hub.tip("main")  # the forge itself would


@only("gitlab")
def test_an_older_gitlab_that_names_no_times_has_no_fresh_approvals(stage: RealStage) -> None:
    stage.hub.names_approval_times = False
    head = stage.push(BRANCH)
    number = stage.door.open(BRANCH, "t", "b").number
    stage.approve(number, "ada")
    (approval,) = given = stage.door.approvals(number)
    assert (approval.by, approval.commit) == ("ada", None)
    assert fresh(given, head) == ()


# --- pages, limits, accidents -------------------------------------------------------------------------------------


def test_what_lies_on_later_pages_is_found(stage: RealStage) -> None:
    stage.hub.page_limit = 2
    stage.push(BRANCH)
    closed = [stage.door.close(stage.door.open(BRANCH, f"t{n}", "b").number) for n in range(3)]
    opened = stage.door.open(BRANCH, "t", "b")
    for n in range(4):
        stage.push(f"other-{n}")
        stage.door.open(f"other-{n}", "t", "b")
        stage.approve(opened.number, f"ada{n}")
        stage.hub.comment(opened.number, Person("ada"), "talk")
    assert stage.door.find(BRANCH) == opened
    assert len(stage.door.approvals(opened.number)) == 4
    first = stage.door.comment(opened.number, "sluice:review", "one")
    assert stage.door.comment(opened.number, "sluice:review", "two") == first
    stage.door.close(opened.number)
    newest = stage.door.find(BRANCH)
    assert newest is not None
    assert newest.number == opened.number not in {each.number for each in closed}


def test_a_read_is_tried_once_more_and_a_write_is_not(stage: RealStage) -> None:
    stage.push(BRANCH)
    stage.hub.broken = 1
    assert stage.door.find(BRANCH) is None
    opened = stage.door.open(BRANCH, "t", "b")
    stage.door.find(BRANCH)
    stage.hub.requests.clear()
    stage.hub.broken = 1
    with pytest.raises(Retry):
        stage.door.set_status(opened.head, _status())
    assert [method for method, _ in stage.hub.requests] == ["POST"]


@pytest.mark.parametrize(
    ("stage", "limit"),
    [
        *((kind, Limit(30, spent=spent)) for kind in KINDS for spent in (False, True)),
        ("github", Limit(30, status=403)),
        ("github", Limit(30, spent=True, status=403)),
    ],
    indirect=["stage"],
)
def test_a_forge_that_limits_us_is_left_alone_as_long_as_it_says(stage: RealStage, limit: Limit) -> None:
    stage.limit(limit)
    with pytest.raises(Retry) as limited:
        stage.door.find(BRANCH)
    assert timedelta(seconds=25) < limited.value.after <= timedelta(seconds=31)
    asked = len(stage.hub.requests)
    with pytest.raises(Retry, match="is not sent: the forge limits us"):
        stage.door.find(BRANCH)
    assert len(stage.hub.requests) == asked


def _status() -> object:
    from policies.pull_requests import CommitStatus, StatusState

    return CommitStatus(context="sluice/review", state=StatusState.SUCCESS)


# --- a GitHub App -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def written(key: rsa.RSAPrivateKey, file: Path) -> str:
    no_password = serialization.NoEncryption()
    form = serialization.PrivateFormat.TraditionalOpenSSL
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, no_password))
    return str(file)


def app_environment(key_file: str) -> dict[str, str]:
    return {
        "SLUICE_GITHUB_APP_ID": "12345",
        "SLUICE_GITHUB_APP_INSTALLATION": "7",
        "SLUICE_GITHUB_APP_KEY_FILE": key_file,
    }


@only("github")
def test_an_app_signs_in_by_its_key_and_keeps_its_token(
    stage: RealStage, app_key: rsa.RSAPrivateKey, tmp_path: Path
) -> None:
    api = stage.server.dialect
    assert isinstance(api, GitHubApi)
    api.app_key = app_key.public_key()
    door = stage.door_of("", **app_environment(written(app_key, tmp_path / "app.pem")))
    stage.push(BRANCH)
    opened = door.open(BRANCH, "t", "b")
    assert opened.author == "sluice[bot]"
    assert door.comment(opened.number, "sluice:review", "x") == door.comment(opened.number, "sluice:review", "y")
    assert api.issued == ["ghs_0"]
    del stage.hub.people["ghs_0"]  # the installation was changed: the forge refuses what it gave
    with pytest.raises(Stalled):
        door.find(BRANCH)
    assert door.find(BRANCH) == opened
    assert api.issued == ["ghs_0", "ghs_1"]


@only("github")
def test_a_token_that_ends_soon_is_replaced(stage: RealStage, app_key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    api = stage.server.dialect
    assert isinstance(api, GitHubApi)
    api.app_key, api.lifetime = app_key.public_key(), timedelta(minutes=4)
    door = stage.door_of("", **app_environment(written(app_key, tmp_path / "app.pem")))
    assert door.find(BRANCH) is None
    assert door.find(BRANCH) is None
    assert api.issued == ["ghs_0", "ghs_1"]


@only("github")
def test_a_strangers_key_opens_nothing(stage: RealStage, app_key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    api = stage.server.dialect
    assert isinstance(api, GitHubApi)
    api.app_key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    door = stage.door_of("", **app_environment(written(app_key, tmp_path / "app.pem")))
    with pytest.raises(Stalled, match="401"):
        door.find(BRANCH)


# --- certificates -------------------------------------------------------------------------------------------------


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "forge")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, key_file = folder / "forge.pem", folder / "forge.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return certificate, key_file


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_certificate_of_ones_own_is_trusted_where_it_is_named(tmp_path: Path, variable: str) -> None:
    certificate, key = self_signed(tmp_path)
    with ForgeServer(tmp_path / "repos", GitHubApi, ssl_certfile=str(certificate), ssl_keyfile=str(key)) as server:
        stage = RealStage("github", server)
        with pytest.raises(Stalled, match="its certificate is not trusted"):
            stage.door.find(BRANCH)
        assert stage.door_of("our-token", **{variable: str(certificate)}).find(BRANCH) is None
