"""What a later start of the local stack writes: its addresses, and nothing that people wrote."""

from __future__ import annotations

import pytest

from pipelines.commands.init import Answers, repo_files
from pipelines.stack_documents import Addresses, Signing, fill
from pipelines.vouched import Trust, Vouched
from policies.layout import ALLOWED_SIGNERS, SLUICE
from policies.strict_yaml import parse
from tests.fakes.repo import FakeRepo

UNSIGNED = Signing(trust=Trust(), key=False)
SIGNED = Signing(trust=Trust(), key=True)
PEOPLES = (
    "webhooks: {listen: '127.0.0.1:1'}\nedges:\n  shop: {follows: production, ray: {dashboard: 'http://127.0.0.1:9'}}\n"
)


def addresses(port: int = 1, *, grpc: bool = False) -> Addresses:
    registry, ray, prometheus = (f"http://127.0.0.1:{port + n}" for n in range(3))
    return Addresses(environment="production", registry=registry, ray=ray, prometheus=prometheus, grpc=grpc)


def files(of: Addresses, *models: str) -> dict[str, str]:
    answers = Answers(registry=of.registry, ray=of.ray, prometheus=of.prometheus, grpc=of.grpc, models=models)
    return dict(repo_files(answers))


def started(extra: str = "", *, grpc: bool = False) -> FakeRepo:
    """A stack's repo after its first start, with what people added to sluice.yaml."""
    repo, first = FakeRepo(), addresses(1, grpc=grpc)
    assert fill(repo, files(first, "fraud"), {}, first, UNSIGNED) == []
    if extra:
        text = repo.read().files[SLUICE].replace("    on_rollback", "    review: required\n    on_rollback") + extra
        repo.person_commits({SLUICE: text})
    return repo


def again(repo: FakeRepo, now: Addresses, signing: Signing = UNSIGNED) -> list[str]:
    return fill(repo, files(now, "fraud", "churn"), {}, now, signing)


def test_a_later_start_changes_addresses_adds_models_and_keeps_what_people_wrote():
    repo = started(PEOPLES)
    repo.person_commits({"models/fraud.yaml": "mine\n"})
    before = repo.read().files
    assert again(repo, addresses(11)) == []
    after = repo.read().files
    expected = before[SLUICE]
    for old, new in zip((1, 2, 3), (11, 12, 13), strict=True):
        expected = expected.replace(f"http://127.0.0.1:{old}\n", f"http://127.0.0.1:{new}\n")
    assert after[SLUICE] == expected
    assert "review: required" in after[SLUICE]
    assert after["models/fraud.yaml"] == "mine\n"
    assert after.keys() - before.keys() == {"models/churn.yaml"}


def test_the_same_addresses_are_no_commit():
    repo = started()
    tip = repo.branch_tip
    assert fill(repo, files(addresses(1), "fraud"), {}, addresses(1), UNSIGNED) == []
    assert repo.branch_tip == tip


def test_a_later_start_turns_grpc_on_and_off():
    repo, served = started(), ("environments", "production", "grpc", "enabled")
    for wanted in (True, False):
        assert again(repo, addresses(1, grpc=wanted)) == []
        assert parse(repo.read().files[SLUICE], SLUICE).value(served) is wanted


def test_grpc_that_is_not_served_and_not_written_stays_unwritten():
    repo = started()
    again(repo, addresses(11))
    assert "grpc" not in repo.read().files[SLUICE]


def test_a_sluice_yaml_without_a_place_for_an_address_is_left_and_the_person_told():
    repo = started()
    repo.person_commits(
        {SLUICE: "apiVersion: sluicegate/v1\nkind: Sluice\nenvironments: {production: {trigger: {alias: c}}}\n"}
    )
    assert again(repo, addresses(11)) == [
        "sluice.yaml: write registry.tracking_uri: http://127.0.0.1:11",
        "sluice.yaml: write environments.production.ray.dashboard: http://127.0.0.1:12",
        "sluice.yaml: write environments.production.prometheus.url: http://127.0.0.1:13",
    ]


def test_a_broken_sluice_yaml_is_no_chance_to_replace_it():
    repo = started()
    repo.person_commits({SLUICE: "a: ["})
    (said,) = again(repo, addresses(11))
    assert said.startswith("sluice.yaml:1:")
    assert said.endswith("Nothing is written: mend it, and start again")
    assert repo.read().files[SLUICE] == "a: ["


# --- where changes must be signed ---------------------------------------------------------------------------------


def signed_stack() -> FakeRepo:
    repo = started(PEOPLES)
    repo.person_commits({SLUICE: repo.read().files[SLUICE] + "signatures: {}\n", ALLOWED_SIGNERS: "ada\nus\n"})
    repo.mark_vouched(repo.branch_tip or "")
    return repo


def test_without_a_key_nothing_is_committed_and_the_person_is_told_what_to_commit():
    repo = signed_stack()
    tip = repo.branch_tip
    why, *by_hand = again(repo, addresses(11))
    assert "asks for signed changes" in why
    assert "SLUICE_SIGNING_KEY" in why
    assert by_hand == [
        "  models/churn.yaml: a new document, as `sluice init` writes it",
        "  sluice.yaml: registry.tracking_uri: http://127.0.0.1:11",
        "  sluice.yaml: environments.production.ray.dashboard: http://127.0.0.1:12",
        "  sluice.yaml: environments.production.prometheus.url: http://127.0.0.1:13",
    ]
    assert repo.branch_tip == tip


def test_with_a_key_that_may_sign_the_addresses_count():
    repo = signed_stack()
    repo.signer = "us"
    assert again(repo, addresses(11), SIGNED) == []
    in_force = Vouched(repo, Trust()).of(repo.read())
    assert in_force.notes == ()
    assert "http://127.0.0.1:11" in in_force.tip.files[SLUICE]


def test_a_key_that_may_not_sign_is_said():
    repo = signed_stack()
    repo.signer = "eve"
    said = again(repo, addresses(11), SIGNED)
    assert [line.partition(":")[0] for line in said] == ["models/churn.yaml", "sluice.yaml"]
    assert all("not allowed to sign: eve" in line for line in said)


def test_our_signature_vouches_for_no_change_of_somebody_elses():
    repo = signed_stack()
    repo.person_commits({SLUICE: repo.read().files[SLUICE].replace("signatures: {}\n", "")})
    repo.signer, tip = "us", repo.branch_tip
    (said, *_) = again(repo, addresses(11), SIGNED)
    assert "our signature would vouch for this" in said
    assert "is not signed" in said
    assert repo.branch_tip == tip


@pytest.mark.parametrize("signing", [UNSIGNED, SIGNED])
def test_trust_without_a_beginning_is_said_and_nothing_written(signing):
    repo = started()
    tip = repo.branch_tip
    lost = Signing(trust=Trust(commit="f" * 40), key=signing.key)
    (said, *_) = again(repo, addresses(11), lost)
    assert said.startswith("nothing is written into the config repo: ")
    assert repo.branch_tip == tip
