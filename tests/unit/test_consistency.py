"""Lint of a whole repo: documents that are right one by one and wrong together."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pipelines.defaults import built_in_documents
from policies.config_repo_documents import parse_repo, with_defaults
from policies.consistency import check
from policies.notes import Note, Severity
from policies.packages import NEEDED

SLUICE = "apiVersion: sluicegate/v1\nkind: Sluice\nenvironments:\n"
PRODUCTION = "  production:\n    trigger: {stage: Production}\n"
MODEL = "apiVersion: sluicegate/v1\nkind: Model\nname: fraud\n"
POLICY = "apiVersion: sluicegate/v1\nkind: RolloutPolicy\nname: mine\n"


def lint(
    environments: str = PRODUCTION, model: str = "", policy: str = "", more: Mapping[str, str] | None = None
) -> tuple[Note, ...]:
    files = {
        "sluice.yaml": SLUICE + environments,
        "models/fraud.yaml": MODEL + ("rollout: mine\n" if policy else "") + model,
        **({"policies/mine.yaml": POLICY + policy} if policy else {}),
        **(more or {}),
    }
    return check(parse_repo(with_defaults(files, built_in_documents())))


def environment(name: str, fields: str = "", stage: str = "Production", ray: str = "", prometheus: str = "") -> str:
    return (
        f"  {name}:\n    trigger: {{stage: {stage}}}\n    ray: {{dashboard: 'http://{ray or name}:8265'}}\n"
        f"    prometheus: {{url: 'http://{prometheus or name}:9090'}}\n    access: {{open: true}}\n{fields}"
    )


def test_a_plain_repo_has_nothing_to_report() -> None:
    assert lint() == ()
    assert lint(environment("eu") + environment("us", "    on_rollback: annotate\n")) == ()
    assert lint(environment("eu") + environment("us", stage="Staging")) == ()


def test_only_one_environment_restores_a_trigger() -> None:
    (note,) = lint(environment("eu") + environment("us"))
    assert str(note) == (
        "sluice.yaml:9: error: environments.us.on_rollback: eu watches stage Production too, and both would restore it "
        "after a rollback; only one may write to the registry: write on_rollback: annotate here"
    )


def test_one_ray_cluster_has_one_environment() -> None:
    (note,) = lint(environment("eu") + environment("us", stage="Staging", ray="EU"))
    assert "environments.us.ray.dashboard: eu has this Ray cluster already" in str(note)


ELSEWHERE = PRODUCTION + "    ray: {dashboard: 'http://ray.example.com:8265'}\n"


def test_a_cluster_elsewhere_says_who_may_call() -> None:
    (note,) = lint(ELSEWHERE)
    assert note.severity is Severity.ERROR
    assert "environments.production.access: is not written, and this Ray cluster is no loopback one" in str(note)
    assert lint(ELSEWHERE + "    access: {open: true}\n") == ()
    assert lint(ELSEWHERE + "    access: {keys: {file: /etc/sluice/keys}}\n") == ()
    assert lint(PRODUCTION + "    ray: {dashboard: 'http://[::1]:8265'}\n") == ()


def test_people_are_asked_where_there_is_a_forge() -> None:
    (note,) = lint(environment("production", "    review: required\n"))
    assert "environments.production.review: asks people by pull requests, and nobody says where" in str(note)


def test_the_keys_of_tokens_come_by_https() -> None:
    def access(url: str) -> str:
        return f"{ELSEWHERE}    access: {{jwt: {{issuer: me, audience: us, jwks_url: '{url}'}}}}\n"

    (note,) = lint(access("http://login.example.com/keys"))
    assert "environments.production.access.jwt.jwks_url: is not https" in str(note)
    assert lint(access("https://login.example.com/keys")) == ()
    assert lint(access("http://127.0.0.1:8080/keys")) == ()


def test_a_version_is_forced_by_keys_where_there_are_some() -> None:
    forced = "forced_version: {to: keys}\n"
    (note,) = lint(model=forced)
    assert note.severity is Severity.WARNING
    assert "forced_version.to: nobody can: production asks nobody for a key" in str(note)
    assert lint(PRODUCTION + "    access: {keys: {env: KEYS}}\n", model=forced) == ()
    assert lint(model="forced_version: {to: anyone}\n") == ()


def test_one_prometheus_needs_labels_to_tell_clusters_apart() -> None:
    (note,) = lint(environment("eu") + environment("us", stage="Staging", prometheus="eu"))
    assert "environments.us.prometheus.labels: eu reads the same series" in str(note)
    apart = environment("us", stage="Staging", prometheus="eu").replace(":9090'}", ":9090', labels: {cluster: us}}")
    assert lint(environment("eu") + apart) == ()


@pytest.mark.parametrize(
    ("interval", "severity"),
    [("0.5s", Severity.ERROR), ("0s", Severity.ERROR), ("1s", Severity.WARNING), ("4s", "warning")],
)
def test_a_look_that_is_too_short(interval: str, severity: Severity) -> None:
    (note,) = lint(environment("eu", f"    look_interval: {interval}\n"))
    assert note.severity == severity
    assert (note.line, note.field) == (9, "environments.eu.look_interval")
    assert interval in note.message


def test_on_one_machine_looks_ask_nobody_elsewhere_and_may_be_short() -> None:
    assert lint(PRODUCTION + "    look_interval: 1s\n") == ()
    (note,) = lint(PRODUCTION + "    look_interval: 0.5s\n")
    assert "0.5s is shorter than a look takes" in note.message


@pytest.mark.parametrize(
    "elsewhere",
    [
        "    prometheus: {url: 'http://prometheus.example.com:9090'}\n",
        "    ray: {dashboard: 'http://ray.example.com:8265'}\n    access: {open: true}\n",
        "registry: {tracking_uri: 'https://mlflow.example.com'}\n",
        "forge: {kind: github, repository: ml/config}\n",
        "forge: {kind: gitea, url: 'https://git.example.com', repository: ml/config}\n",
    ],
)
def test_one_part_elsewhere_makes_looks_that_ask_others(elsewhere: str) -> None:
    (note,) = lint(PRODUCTION + "    look_interval: 1s\n" + elsewhere)
    assert "1s asks four services more often than they change: 5s or more is enough" in note.message


@pytest.mark.parametrize(
    ("model", "policy", "says"),
    [
        ("candidate_timeout: 99h\n", "", "candidate_timeout: 99h leaves stable no time"),
        (
            "candidate_timeout: 90s\nrequest_timeout: 60s\ngraceful_shutdown: 120s\n",
            "",
            "shorter than request_timeout, 60s",
        ),
        ("candidate_timeout: 0.100s\n", "", "the candidate is given 0.100s, but the SLO latency"),
        ("", "step: {min_duration: 0m1s, max_duration: 0m2s}\n", "step.max_duration: 0m2s is shorter than 4 scrapes"),
        ("", "max_duration: 90s\n", "max_duration: 90s is shorter than its steps together"),
    ],
)
def test_a_duration_is_said_as_it_was_written(model: str, policy: str, says: str) -> None:
    assert any(says in str(note) for note in lint(model=model, policy=policy))


def test_a_scrape_that_is_too_short() -> None:
    (note,) = lint(PRODUCTION + "    prometheus: {scrape_interval: 0.5s}\n")
    assert "write at least 1s" in note.message


@pytest.mark.parametrize(
    ("policy", "field", "severity", "says"),
    [
        (
            "step: {min_duration: 59s}\n",
            "step.min_duration",
            "warning",
            "59s is shorter than 4 scrapes in production, 1m",
        ),
        ("settle: {min_duration: 0s}\n", "settle.min_duration", "warning", "it would pass on hardly any evidence"),
        ("shadow: {min_duration: 1s}\n", "shadow.min_duration", "warning", "1s is shorter than 4 scrapes"),
        ("step: {min_duration: 1s, max_duration: 30s}\n", "step.max_duration", "error", "nothing could ever pass"),
        ("max_duration: 29m\n", "max_duration", "error", "29m is shorter than its steps together, 30m"),
    ],
)
def test_a_policy_with_too_little_time(policy: str, field: str, severity: str, says: str) -> None:
    (note,) = lint(policy=policy)
    assert (note.file, note.line, note.field, note.severity) == ("policies/mine.yaml", 4, field, severity)
    assert says in note.message


def test_a_built_in_policy_is_blamed_on_the_scrape_interval() -> None:
    notes = lint(PRODUCTION + "    prometheus: {scrape_interval: 2m}\n")
    assert {(note.file, note.line, note.severity) for note in notes} == {("sluice.yaml", 6, Severity.WARNING)}
    assert "in the built-in policy default, shadow.min_duration: 5m is shorter than 4 scrapes" in str(notes[1])


def test_a_policy_that_is_not_used_there_may_be_short() -> None:
    slow = "    prometheus: {scrape_interval: 2m}\n"
    two = environment("eu") + environment("us", stage="Staging").replace(":9090'}", ":9090', scrape_interval: 2m}")
    assert lint(two, model="environments: [eu]\n") == ()
    assert lint(PRODUCTION + slow, model="environments: [production]\n") != ()


@pytest.mark.parametrize(
    ("model", "field", "says"),
    [
        ("candidate_timeout: 30s\n", "candidate_timeout", "30s leaves stable no time to answer in its place: must be"),
        ("candidate_timeout: 0.2s\n", "candidate_timeout", "is given 0.2s, but the SLO latency allows 200 ms"),
        ("request_timeout: 0.4s\n", "request_timeout", "is given 0.2s, but the SLO latency allows 200 ms"),
        ("environments: []\n", "environments", "no environment serves this model"),
    ],
)
def test_a_model_with_too_little_time(model: str, field: str, says: str) -> None:
    (note,) = lint(model=model)
    assert (note.file, note.line, note.field) == ("models/fraud.yaml", 4, field)
    assert says in note.message


AGREEMENT = """apiVersion: openslo/v1
kind: SLO
metadata: {name: same-answers}
spec:
  indicator:
    spec:
      ratioMetric:
        good: {metricSource: {type: sluicegate, spec: {sli: agreement}}}
        total: {metricSource: {type: sluicegate, spec: {sli: agreement}}}
  timeWindow: [{duration: 30d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{target: 0.98}]
"""


def test_agreement_without_shadow_is_asked_of_no_rollout() -> None:
    with_slo = {"policies/same.yaml": AGREEMENT}
    (note,) = lint(model="slos: [errors, same-answers]\n", policy="shadow: null\n", more=with_slo)
    assert (note.file, note.line, note.severity) == ("models/fraud.yaml", 5, Severity.WARNING)
    assert "the policy mine has no shadow: no rollout is held to it" in note.message
    assert lint(model="slos: [errors, same-answers]\n", more=with_slo) == ()


def test_agreement_alone_could_never_prove_a_first_version() -> None:
    (note,) = lint(model="slos: [same-answers]\n", more={"policies/same.yaml": AGREEMENT})
    assert note.severity is Severity.ERROR
    assert "a first version has no stable to agree with" in note.message


def test_expressions_are_estimates_and_counters_are_not() -> None:
    counters = 'app_total{model=~"{{model}}",version=~"{{version}}"}'
    summed = f"sum by (model, version) (increase({counters}[{{{{window}}}}]))"
    for query, estimated in ((counters, False), (summed, False), (f"{summed} + 0", True)):
        source = f"{{metricSource: {{type: Prometheus, spec: {{query: '{query}'}}}}}}"
        own = AGREEMENT.replace("{metricSource: {type: sluicegate, spec: {sli: agreement}}}", source)
        notes = lint(more={"policies/own.yaml": own})
        assert [(n.file, n.severity) for n in notes] == [("policies/own.yaml", Severity.WARNING)] * estimated
        assert not estimated or "its counts are estimates" in notes[0].message


SHAPED = [
    "AKIA" + "IOSFODNN7EXAMPLE",
    "ghp_" + "a1" * 18,
    "glpat-" + "x" * 20,
    "hf_" + "aB3" * 10,
    "postgres://me:" + "pw@db/x",
    "-----BEGIN RSA PRIVATE" + " KEY-----",
]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DB_PASSWORD", "hunter2"),
        ("api-key", "abc"),
        ("AWS_SECRET_ACCESS_KEY", "x y"),
        ("MLFLOW_TRACKING_TOKEN", "t0"),
        ("HARMLESS", SHAPED[0]),
        *(("ANYTHING", value) for value in SHAPED),
    ],
)
def test_a_secret_is_an_error_and_is_not_repeated(key: str, value: str) -> None:
    (note,) = lint(model=f'settings: {{env: {{"{key}": "{value}"}}}}\n')
    assert note.severity is Severity.ERROR
    assert note.field == f"settings.env.{key}"
    assert "looks like a secret" in note.message
    assert value not in str(note)


FEATURES = "settings:\n  features: {entry_point: 'a:b', key: user, required: [age], "


def test_a_secret_among_the_options_of_features() -> None:
    (note,) = lint(model=FEATURES + "options: {url_env: REDIS_URL, password: 'correct horse'}}\n")
    assert note.field == "settings.features.options.password"
    assert "looks like a secret" in note.message
    assert "correct horse" not in str(note)


def test_features_that_leave_no_time_to_predict() -> None:
    (note,) = lint(model=FEATURES + "timeout_ms: 5000}\nrequest_timeout: 10s\n")
    assert note.field == "settings.features.timeout_ms"
    assert note.message == "must be shorter than a candidate's whole time, 5s"
    assert lint(model=FEATURES + "timeout_ms: 4999}\nrequest_timeout: 10s\n") == ()


def test_a_random_value_is_a_warning() -> None:
    (note,) = lint(model="settings: {env: {SALT: q7Rk2VxP9mZt4LwB8sNc3YhJ}}\n")
    assert note.severity is Severity.WARNING
    assert "q7Rk" not in str(note)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "false"),
        ("MAX_TOKENS", "4096"),
        ("TOKEN_PATH", "/run/secrets/token"),
        ("SECRET_NAME", "fraud-db"),
        ("USE_TOKEN", "true"),
        ("PASSWORD", ""),
        ("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128"),
        ("MODEL_ID", "sentence-transformers/all-MiniLM-L6-v2"),
        ("FEATURE_STORE_URL", "https://features.internal.example:8443/v1/online"),
        ("LD_LIBRARY_PATH", "/usr/local/cuda-12.4/lib64"),
    ],
)
def test_settings_that_only_sound_like_secrets(key: str, value: str) -> None:
    assert lint(model=f'settings: {{env: {{{key}: "{value}"}}}}\n') == ()


def test_a_password_in_a_package_index() -> None:
    (note,) = lint(model='settings: {packages: ["--index-url https://me:pw@pypi.example/simple"]}\n')
    assert note.field == "settings.packages[0]"
    assert "pw@" not in str(note)


# --- what nobody could install, or reads ----------------------------------------------------------------------


def test_packages_that_admission_would_refuse() -> None:
    found = lint(model="settings:\n  packages:\n    - 'scikit-learn==1.7.2'\n    - 'not a req!!'\n    - 'ray==2.10'\n")
    assert [str(note) for note in found] == [
        (
            "models/fraud.yaml:7: error: settings.packages[1]: 'not a req!!' is no requirement: write a package and "
            "its versions, as in scikit-learn==1.7.2"
        ),
        (
            "models/fraud.yaml:8: error: settings.packages[2]: it asks for ray==2.10, and replicas need "
            f"ray{NEEDED['ray']}"
        ),
    ]


def test_packages_that_exclude_each_other() -> None:
    (note,) = lint(model="settings:\n  packages: ['redis<5', 'redis>=6']\n")
    assert str(note) == "models/fraud.yaml:5: error: settings.packages: redis<5 and redis>=6 exclude each other"


def test_a_package_with_a_password_is_not_repeated() -> None:
    (note,) = lint(model="settings:\n  packages: ['--index-url https://me:hunter2@host/simple']\n")
    assert "holds a password or token" in str(note)
    assert "hunter2" not in str(note)


ENSEMBLE = "apiVersion: sluicegate/v1\nkind: Ensemble\nname: both\nmembers: [fraud, churn]\n"


def test_a_minimum_that_nobody_reads() -> None:
    others = {"models/churn.yaml": MODEL.replace("fraud", "churn"), "ensembles/both.yaml": ENSEMBLE + "minimum: 2\n"}
    (note,) = lint(more=others)
    assert str(note) == (
        "ensembles/both.yaml:5: warning: minimum: 2 is not read while on_failure is fail: then all members must answer "
        "well; write on_failure: leave_out, or leave minimum out"
    )
    assert lint(more=others | {"ensembles/both.yaml": ENSEMBLE + "minimum: 2\non_failure: leave_out\n"}) == ()


def test_the_packages_of_an_ensemble_too() -> None:
    own = ENSEMBLE.replace(", churn", "") + "settings: {packages: ['not a req!!']}\n"
    (note,) = lint(more={"ensembles/both.yaml": own})
    assert "ensembles/both.yaml:5: error: settings.packages[0]: 'not a req!!' is no requirement" in str(note)
