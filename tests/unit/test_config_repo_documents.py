"""A whole config repo: what is refused and in which words, and releases that are the same bytes every time."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.defaults import built_in_documents
from policies.admission import Check, CheckOutcome
from policies.admission_rules import CHECKS
from policies.application import Application, Settings
from policies.config_repo_documents import BUILT_IN, ConfigRepo, parse_repo, read_repo, route_of, with_defaults
from policies.consistency import check
from policies.documents import Bake, ModelDocument, RolloutPolicy
from policies.durations import format_duration, parse_duration
from policies.errors import BadInput
from policies.evidence import Objective, Queries, Sli
from policies.layout import history_path, locate, model_path, release_path, serve_path
from policies.names import ROLLOUT_ID, slug
from policies.notes import Severity
from policies.release import (
    Ask,
    Cause,
    CauseKind,
    Outcome,
    Phase,
    PhaseRecord,
    Purpose,
    Quarantined,
    Refused,
    Release,
    Rollout,
    Wish,
)
from policies.rollout_record import HistoryRecord
from policies.serving import Features, Placement
from policies.slo import asked_of
from policies.stored_documents import history_text, parse_history, parse_release, release_text
from policies.strict_yaml import dump, parse
from policies.verdict import VerdictKind

SLUICE = """\
apiVersion: sluicegate/v1
kind: Sluice
environments:
  production:
    trigger:
      stage: Production
"""
MODEL = "apiVersion: sluicegate/v1\nkind: Model\nname: fraud\n"
POLICY = "apiVersion: sluicegate/v1\nkind: RolloutPolicy\nname: mine\n"
ERRORS = built_in_documents()["slo-errors.yaml"]
LATENCY = built_in_documents()["slo-latency.yaml"]


def notes(**files: str) -> list[str]:
    """What is said about a repo; `models__fraud="..."` is the file models/fraud.yaml, beside a good sluice.yaml."""
    named = {f"{name.replace('__', '/').replace('_', '-')}.yaml": text for name, text in files.items()}
    return said({"sluice.yaml": SLUICE, **named})


def said(files: dict[str, str]) -> list[str]:
    return [str(note) for note in read_repo(with_defaults(files, built_in_documents())).notes]


def repo(files: dict[str, str]) -> ConfigRepo:
    return parse_repo(with_defaults({"sluice.yaml": SLUICE, **files}, built_in_documents()))


# --- what a repo says -----------------------------------------------------------------------------------------


def test_a_whole_repo() -> None:
    release = Release(model="fraud", environment="production", revision=3, seen=(1,))
    read = repo(
        {
            "models/fraud.yaml": MODEL + "rollout: mine\nslos: [errors]\nsettings: {cpus: 2, env: {OMP: '1'}}\n",
            "policies/mine.yaml": POLICY + "shadow: null\nsteps: [50]\nstep: {min_duration: 1m30s}\n",
            "environments/production/releases/fraud.yaml": release_text(release),
            "environments/production/serve.yaml": "applications: []\n",
            "history/production/fraud/r1.json": "whatever",
            "models/README.md": "for people",
        }
    )
    assert read.models["fraud"].settings == Settings(cpus=2.0, env={"OMP": "1"})
    assert read.policies["mine"].step == Bake(min_duration=timedelta(seconds=90))
    assert read.policies["mine"].shadow is None
    assert read.releases == {("production", "fraud"): release}
    assert read.serve == {"production": {"applications": []}}
    assert read.serves("production").keys() == {"fraud"}
    assert route_of(read.models["fraud"]) == "/models/fraud"


def test_an_environment_without_serve_config_says_so() -> None:
    assert repo({}).serve == {"production": None}
    assert repo({"environments/production/serve.yaml": ""}).serve == {"production": {}}


def test_the_built_in_documents_are_the_defaults_of_the_nouns() -> None:
    read = repo({})
    assert read.policies == {
        "default": RolloutPolicy(name="default"),
        "experiment": RolloutPolicy(
            name="experiment",
            shadow=None,
            steps=(50,),
            step=Bake(min_duration=timedelta(days=14), max_duration=timedelta(days=14), min_requests=1000),
            settle=Bake(min_duration=timedelta(hours=1), max_duration=timedelta(days=1)),
            max_duration=timedelta(days=16),
            on_inconclusive="rollback",
            tolerance=1.1,
        ),
    }
    assert read.slos == {
        "feedback": Objective(name="feedback", sli=Sli.FEEDBACK, target=0.03),
        "errors": Objective(name="errors", sli=Sli.ERRORS, target=0.99),
        "latency": Objective(name="latency", sli=Sli.LATENCY, target=0.95, threshold_ms=200),
    }


def test_a_built_in_document_gives_way_to_the_repos_own() -> None:
    own = {"policies/x.yaml": POLICY.replace("mine", "default") + "steps: [50]\n"}
    assert repo(own).policies["default"].steps == (50,)
    assert repo({"policies/y.yaml": ERRORS.replace("0.99", "0.999")}).slos["errors"].target == 0.999
    assert locate(BUILT_IN + "x.yaml") is None, "no file of a repo can stand where the built-in ones are"


def test_bad_slos_in_good_and_bad_form_are_the_same() -> None:
    assert repo({"policies/y.yaml": ERRORS.replace("good:", "bad:")}).slos == repo({}).slos


def test_what_a_repo_says_does_not_leak_into_the_next_reading() -> None:
    files = {"environments/production/serve.yaml": "applications: [{name: a}]\n"}
    first = repo(files).serve["production"]
    assert first is not None
    first["applications"].clear()
    assert repo(files).serve["production"] == {"applications": [{"name": "a"}]}


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("settings:\n  cpu: 2\n", "models/fraud.yaml:5: error: settings.cpu: is not known here; did you mean cpus?"),
        ("rollouts: x\n", "models/fraud.yaml:4: error: rollouts: is not known here; did you mean rollout?"),
        ("colour: x\n", "models/fraud.yaml:4: error: colour: is not known here; known are name, route, environments,"),
        ('settings: {cpus: "2"}\n', 'models/fraud.yaml:4: error: settings.cpus: should be a valid number, not "2"'),
        ("settings: {cpus: yes}\n", 'settings.cpus: should be a valid number, not "yes"'),
        ("settings: {cpus: true}\n", "settings.cpus: should be a valid number, not true"),
        ("settings: {cpus: 0}\n", "settings.cpus: should be greater than or equal to 0.0001, not 0"),
        ("settings: {cpus: 0.00001}\n", "settings.cpus: should be greater than or equal to 0.0001, not 1e-05"),
        ("settings: {gpus: 0.00001}\n", "settings.gpus: 1e-05 is less than Ray can count: write at least 0.0001, or"),
        ("settings: {custom: {tpu: 0.00001}}\n", "settings.custom.tpu: 1e-05 is less than Ray can count: write at"),
        ("settings: {custom: {tpu: -1}}\n", "settings.custom.tpu: should not be below 0, and is -1"),
        ("settings: {custom: {CPU: 1}}\n", "settings.custom.CPU: is written as settings.cpus"),
        ("settings: {custom: {GPU: 1}}\n", "settings.custom.GPU: is written as settings.gpus"),
        ("settings: {custom: {memory: 1}}\n", "settings.custom.memory: is written as settings.memory_mib"),
        ("settings: {custom: {object_store_memory: 1}}\n", "object_store_memory: is the node's: replicas reserve none"),
        ("settings: {custom: {bundle: 1}}\n", "settings.custom.bundle: is a name that Ray keeps for itself"),
        ("settings: {placement: {bundles: []}}\n", "settings.placement.bundles: is empty: write at least one"),
        ("settings: {placement: {bundles: [{}]}}\n", "settings.placement.bundles[0]: is empty: write at least one"),
        ("settings: {placement: {bundles: [{CPU: 0}]}}\n", "bundles[0].CPU: should be greater than 0, not 0"),
        ("settings: {placement: {bundles: [{CPU: one}]}}\n", 'bundles[0].CPU: should be a valid number, not "one"'),
        (
            "settings: {placement: {bundles: [{CPU: 1, x: 0.00001}]}}\n",
            "bundles[0].x: 1e-05 is less than Ray can count",
        ),
        ("settings: {placement: {bundles: {CPU: 1}}}\n", 'bundles: should be a list, not {"CPU": 1}'),
        (
            "settings: {gpus: 1, placement: {bundles: [{CPU: 0.5}, {GPU: 1}]}}\n",
            (
                "settings.placement.bundles[0]: the replica itself runs in the first bundle of its placement, which "
                "must hold what the other fields reserve: there it lacks 0.5 CPU, 1 GPU"
            ),
        ),
        ("capture: {share: 1, to: /var/x}\n", "capture.to: should be s3://bucket/prefix or file:///folder, a buck"),
        ("capture: {share: 1, to: 's3://B/x'}\n", "3 to 63 lower-case letters, digits, . and -, folders of"),
        (
            "capture: {share: 1, to: 's3://traffic', every: 2h}\n",
            "models/fraud.yaml:4: error: capture.every: is above 0s and at most 1h, not 2h",
        ),
        ("capture: {share: 1, to: 'file:///x/../y'}\n", "fraud.yaml:4: error: capture.to: has the part ..; write it"),
        ("capture: {share: 1, to: 'file:///x/./y'}\n", "capture.to: has the part .; write it without"),
        ("capture: {share: 1, to: 'file:///x/.parts'}\n", "capture.to: has the part .parts; write it without"),
        ("capture: {share: 1, to: 'file://'}\n", "capture.to: names no folder; write file:///folder"),
        (f"capture: {{share: 1, to: 'file:///{'x' * 201}'}}\n", "capture.to: is too long: 512 characters at most, 200"),
        (
            "capture: {share: 1, to: 's3://traffic', exclude: ['']}\n",
            "capture.exclude[0]: is empty: write at least one",
        ),
        ("segments: {key: {header: x}, values: []}\n", "segments.values: is empty: write at least one"),
        ("segments: {key: {header: x}, values: ['']}\n", "segments.values[0]: is empty: write at least one"),
        ("segments: {key: {header: x}, values: [1]}\n", "segments.values[0]: should be a valid string, not 1"),
        (
            f"segments: {{key: {{header: x}}, values: [{', '.join(f'v{i}' for i in range(21))}]}}\n",
            "segments.values: has 21 entries: at most 20 are read",
        ),
        (
            f"segments: {{key: {{header: x}}, values: [{'v' * 65}]}}\n",
            "segments.values[0]: should have at most 64 characters, not",
        ),
        (
            "settings: {features: {entry_point: foo, key: user, required: [age]}}\n",
            'entry_point: should be package.module:name, of Python that the replicas can import, not "foo"',
        ),
        (
            "settings: {features: {entry_point: 'a:b', key: user, defaults: {age: [1]}}}\n",
            (
                "settings.features.defaults.age: should be a valid string or a valid boolean or a valid integer or a "
                "valid number, not [1]"
            ),
        ),
        (
            "settings: {features: {entry_point: 'a:b', key: user}}\n",
            "settings.features: defaults and required are both empty: no feature is looked up",
        ),
        (
            "settings: {features: {entry_point: 'a:b', key: user, defaults: {age: 1}, required: [age]}}\n",
            "settings.features.defaults.age: a feature is in defaults or in required, once, and the key is none: 'age'",
        ),
        ("settings: 5\n", "settings: should be a mapping, not 5"),
        ("settings:\n", "settings: should be a mapping, not null"),
        ("settings: {env: {KEY: 5}}\n", "settings.env.KEY: should be a valid string, not a number: write it in quotes"),
        ("settings: {env: {KEY: true}}\n", "KEY: should be a valid string, not true or false: write it in quotes"),
        ("settings: {env: {KEY: [hunter2]}}\n", "settings.env.KEY: should be a valid string, not a list"),
        ("max_ongoing_requests: 1.5\n", "max_ongoing_requests: should be a valid integer"),
        ("environments: production\n", 'environments: should be a list, not "production"'),
        ("request_timeout: 30\n", "request_timeout: 30 is not a duration; write it like 30s, 5m, 1h30m or 30d"),
        ("request_timeout: 5 min\n", "request_timeout: '5 min' is not a duration; write it like"),
        ("request_timeout: 9999999999999d\n", "request_timeout: 9999999999999d... is longer than any duration can be"),
        ("route: //evil\n", "route: should be a path like /models/fraud"),
        ("route: fraud\n", "route: should be a path like /models/fraud"),
        ("route: /a/../b\n", "route: /a/../b has an empty part, . or ..: write it without"),
        ("route: /a//b\n", "route: /a//b has an empty part"),
        (
            "graceful_shutdown: 5s\n",
            (
                "fraud.yaml:4: error: graceful_shutdown: 5s is not longer than request_timeout 30s: requests would be "
                "lost"
            ),
        ),
        (
            "rollout: default\nrequest_timeout: 50s\n",
            "fraud.yaml:5: error: request_timeout: graceful_shutdown 40s is not longer than request_timeout 50s",
        ),
        ("request_timeout: 2h\n", "fraud.yaml:4: error: request_timeout: is above 0s and at most 1h, not 2h"),
        ("slos: []\n", "fraud.yaml:4: error: slos: is empty: a candidate that is not judged could never pass"),
        (
            "settings:\n  environment: image\n",
            "fraud.yaml:5: error: settings.environment: image is written exactly where environment is image",
        ),
        ("settings:\n  image: a:1\n", "fraud.yaml:5: error: settings.image: is written exactly where environment is"),
        (
            "segments:\n  key: {header: x}\n  values: [a, other]\n",
            "fraud.yaml:6: error: segments.values[1]: values are different from each other, and none is `other`",
        ),
        (
            "batching: {max_batch_size: '12'}\n",
            'max_batch_size: should be a valid integer, not "12": write it without quotes',
        ),
        ("settings: {cpus: .nan}\n", ".nan is read differently by different YAML readers: write a number in plain"),
        ("slos: [errors, errors]\n", "slos[1]: errors is named twice: once is enough"),
        ("slos: [errors, latancy]\n", "slos[1]: 'latancy' is not known here; did you mean latency?"),
        ("rollout: deafult\n", "rollout: 'deafult' is not known here; did you mean default?"),
        ("environments: [production, staging]\n", "environments[1]: 'staging' is not known here; known are production"),
        (
            "autoscaling: {min_replicas: 3}\n",
            "fraud.yaml:4: error: autoscaling.min_replicas: 3 is above max_replicas 1",
        ),
        ("name: other\n", "models/fraud.yaml:4: error: the key 'name' appears twice, first in line 3: keep one"),
        ("route: *x\n", "models/fraud.yaml:4: error: route: an alias, *x"),
        ("\troute: x\n", "models/fraud.yaml:4: error: a tab: indent with spaces"),
    ],
)
def test_a_model_document_that_is_wrong(body: str, says: str) -> None:
    (note,) = notes(models__fraud=MODEL + body)
    assert says in note


@pytest.mark.parametrize(
    "broken",
    [
        {"policies__x": POLICY + "alpha: 2\n", "policies__y": ERRORS.replace("name: errors", "name: own") + "  x: 1\n"},
        {"policies__x": "\t"},
        {"policies__x": POLICY.replace("kind:", "knd:"), "policies__y": ERRORS.replace("name: errors", "nam: own")},
        {
            "policies__x": POLICY + "alpha: 2\n",
            "policies__y": ERRORS.replace("name: errors", "name: own").replace("0.99", "0.1"),
        },
    ],
)
def test_what_a_broken_policy_may_be_is_not_called_absent(broken: dict[str, str]) -> None:
    found = notes(models__fraud=MODEL + "rollout: mine\nslos: [own]\n", **broken)
    assert {note.partition(":")[0] for note in found} == {name.replace("__", "/") + ".yaml" for name in broken}


def test_what_no_broken_policy_can_be_is_called_absent() -> None:
    found = notes(models__fraud=MODEL + "rollout: mien\nslos: [own]\n", policies__x=POLICY + "alpha: 2\n")
    assert [note.partition(" error: ")[2].partition(" is")[0] for note in found] == [
        "rollout: 'mien'",
        "slos[0]: 'own'",
        "alpha: should be less than or equal to 0.2, not 2",
    ]


def test_every_problem_is_named_not_only_the_first() -> None:
    found = notes(
        models__fraud=MODEL + "settings: {cpu: 1, gpus: -1}\nroute: x\n",
        models__spam="apiVersion: sluicegate/v1\nkind: Model\n",
        policies__p=POLICY + "alpha: 2\n",
    )
    assert [re.split(r": (?:error|warning): ", note)[0] for note in found] == [
        "models/fraud.yaml:4",
        "models/fraud.yaml:4",
        "models/fraud.yaml:5",
        "models/spam.yaml:1",
        "policies/p.yaml:4",
    ]
    assert "name: is missing: The registered model's name in MLflow, as it is there." in found[3]


def test_a_repo_with_an_error_is_not_read_at_all() -> None:
    reading = read_repo({"sluice.yaml": SLUICE, "models/fraud.yaml": "name: ["})
    assert reading.repo is None, "or the model would be taken for one that was removed"
    with pytest.raises(BadInput, match=r"models/fraud\.yaml:1: error"):
        parse_repo({"sluice.yaml": SLUICE, "models/fraud.yaml": "name: ["})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the document must be a mapping that begins with apiVersion: sluicegate/v1 and kind: Model"),
        ("- a", "the document must be a mapping"),
        ("name: x", "kind: is missing: write apiVersion: sluicegate/v1 and kind: Model"),
        (MODEL.replace("Model", "Modell"), "kind: 'Modell' does not belong here; did you mean Model?"),
        (POLICY, "kind: 'RolloutPolicy' does not belong here"),
        (MODEL.replace("v1", "v2"), "apiVersion: 'sluicegate/v2' is not read: write apiVersion: sluicegate/v1"),
        ("kind: Model\nname: fraud", "apiVersion: is missing: write apiVersion: sluicegate/v1"),
        ("kind: [a]\nname: fraud", "kind: \"['a']\" does not belong here"),
    ],
)
def test_a_document_says_first_what_it_is(text: str, says: str) -> None:
    (note,) = notes(models__fraud=text)
    assert says in note


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "    trigger:\n      stage: Production\n",
            "    look_interval: 5s\n",
            "environments.production.trigger: is missing",
        ),
        ("stage: Production", "stage: production", "trigger.stage: should be 'Staging' or 'Production', not"),
        ("stage: Production", "stage: Production\n      alias: x", "a trigger is exactly one of stage, alias or tag"),
        ("  production:", "  Production:", "'Production' is no name for an environment"),
        ("  production:", "  ../up:", "environments.../up: '../up' is no name for an environment"),
        ("environments:", "registry: {tracking_uri: 'http://u:pw@h'}\nenvironments:", "should be an address like"),
        (
            "environments:",
            "registry: {uri: x}\nenvironments:",
            "registry.uri: is not known here; did you mean tracking_uri?",
        ),
    ],
)
def test_a_sluice_document_that_is_wrong(old: str, new: str, says: str) -> None:
    (note,) = said({"sluice.yaml": SLUICE.replace(old, new)})
    assert says in note
    assert ":pw" not in note, "a password is not repeated"


def test_no_sluice_document_says_how_to_get_one() -> None:
    (note,) = said({})
    assert note == "sluice.yaml: error: is missing: it names the environments; `sluice init` writes one"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("steps: [10, 5]\n", "mine.yaml:4: error: steps: must rise: [10, 5]"),
        ("steps: [0]\n", "steps[0]: should be greater than or equal to 1, not 0"),
        (
            "step: {min_duration: 1h}\n",
            "step.min_duration: 1h is longer than max_duration 30m: the step could never pass",
        ),
        ("shadow: {max_durations: 1h}\n", "shadow.max_durations: is not known here; did you mean max_duration?"),
        (
            "on_inconclusive: stop\n",
            "on_inconclusive: should be 'pause', 'rollback' or 'promote_if_stable_equal', not \"stop\"",
        ),
        ("alpha: 0\n", "alpha: should be greater than 0"),
    ],
)
def test_a_policy_that_is_wrong(body: str, says: str) -> None:
    (note,) = notes(policies__mine=POLICY + body)
    assert says in note


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "value: 200",
            "value: 250",
            "250 ms is no edge of the latency buckets; the edges are 1, 2, 5, 10, 20, 50, 100, 200",
        ),
        ("      op: lte\n", "", "a thresholdMetric needs op: lte and value: <milliseconds>"),
        ("op: lte", "op: gte", "objectives[0].op: should be 'lte' or 'gt', not \"gte\""),
        ("op: lte", "op: gt", "objectives[0].op: an answer in time takes at most so long: write op: lte"),
        ("target: 0.95", "targetPercent: 95", "objectives[0].target: is missing"),
        ("target: 0.95", "target: 95", "objectives[0].target: should be less than 1"),
        ("sli: latency", "sli: errors", "metricSource.spec.sli: should be 'latency'"),
        ("type: sluicegate", "type: prometheus", "metricSource: type: prometheus has spec: {query: ...}"),
        (
            "type: sluicegate",
            "type: Datadog",
            "metricSource.type: should be 'sluicegate', 'Prometheus' or 'prometheus'",
        ),
        ("isRolling: true", "isRolling: false", "timeWindow[0].isRolling: should be True, not false"),
        ("duration: 30d", "duration: 0d", "timeWindow[0].duration: an error budget's window is 1d at least"),
        ("budgetingMethod: Occurrences", "budgetingMethod: Timeslices", "budgetingMethod: should be 'Occurrences'"),
        ("  service", "  alertPolicies: []\n  service", "alertPolicies: is not read here: leave it out"),
        ("  service", "  indicatorRef: x\n  service", "indicatorRef: is not read here: write the indicator here"),
        ("  service", "  servise: x\n  service", "spec.servise: is not known here; did you mean service?"),
        ("kind: SLO", "kind: SLI", "kind: 'SLI' does not belong here; did you mean SLO?"),
        ("openslo/v1", "openslo/v2alpha", "apiVersion: 'openslo/v2alpha' is not read: write apiVersion: openslo/v1"),
        ("name: latency\n  display", "name: La Tency\n  display", "metadata.name: should be lower-case letters"),
    ],
)
def test_an_slo_that_is_not_read_says_what_is(old: str, new: str, says: str) -> None:
    assert old in LATENCY
    assert says in "\n".join(notes(policies__slo=LATENCY.replace(old, new)))


@pytest.mark.parametrize("window", ["0d", "0s", "23h"])
def test_the_window_of_an_error_budget_is_a_day_at_least(window: str) -> None:
    said = "\n".join(notes(policies__slo=OWN.replace("duration: 7d", f"duration: {window}")))
    assert "an error budget's window is 1d at least and 366d at most" in said


OWN = """apiVersion: openslo/v1
kind: SLO
metadata: {name: orders}
spec:
  indicator:
    spec:
      ratioMetric:
        good:
          metricSource:
            type: Prometheus
            spec: {query: 'orders_total{model=~"{{model}}",version=~"{{version}}",result="ok"}'}
        total:
          metricSource:
            type: Prometheus
            spec: {query: 'orders_total{model=~"{{model}}",version=~"{{version}}"}'}
  timeWindow: [{duration: 7d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{target: 0.98}]
"""
TOTAL = 'orders_total{model=~"{{model}}",version=~"{{version}}"}'
HISTOGRAM = """apiVersion: openslo/v1
kind: SLO
metadata: {name: waits}
spec:
  indicator:
    spec:
      thresholdMetric:
        metricSource:
          type: prometheus
          spec: {query: 'wait_bucket{model=~"{{model}}",version=~"{{version}}"}'}
  timeWindow: [{duration: 30d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{target: 0.9, op: gt, value: 0.5}]
"""


def test_any_two_queries_are_an_objective() -> None:
    selector = 'orders_total{model=~"{{model}}",version=~"{{version}}"'

    assert repo({"policies/slo.yaml": OWN}).slos["orders"] == Objective(
        name="orders",
        sli=Sli.QUERIES,
        target=0.98,
        queries=Queries(total=selector + "}", good=selector + ',result="ok"}'),
        window=timedelta(days=7),
    )


def test_agreement_is_an_objective() -> None:
    slo = ERRORS.replace("sli: errors", "sli: agreement").replace("name: errors", "name: agreement")

    assert repo({"policies/slo.yaml": slo}).slos["agreement"] == Objective(
        name="agreement", sli=Sli.AGREEMENT, target=0.99
    )


def test_the_buckets_of_a_histogram_are_an_objective() -> None:
    selector = 'wait_bucket{model=~"{{model}}",version=~"{{version}}"'

    assert repo({"policies/slo.yaml": HISTOGRAM}).slos["waits"].queries == Queries(
        total=selector + ',le="+Inf"}', bad=selector + ',le=~"0[.]5"}'
    )


@pytest.mark.parametrize(
    ("text", "old", "new", "says"),
    [
        (OWN, 'result="ok"', 'model="{{model}}"', 'ratioMetric.good.metricSource.spec.query: model="{{model}}": one'),
        (OWN, "'" + TOTAL + "'", "orders", "ratioMetric.total.metricSource.spec.query: does not say whose"),
        (OWN, "spec: {query: '" + TOTAL + "'}", "spec: {sli: errors}", "has spec: {query: ...}"),
        (ERRORS, "sli: errors\n        total", "sli: agreement\n        total", "total is errors, good is agreement"),
        (OWN, "type: Prometheus", "type: sluicegate", "spec: {sli: errors, sli: agreement or sli: feedback}"),
        (HISTOGRAM, "wait_bucket{", "wait_seconds{", "thresholdMetric.metricSource.spec.query: a value over time"),
        (HISTOGRAM, "op: gt", "op: lt", "objectives[0].op: should be 'lte' or 'gt', not \"lt\""),
        (HISTOGRAM, ", value: 0.5", "", "a thresholdMetric needs op"),
    ],
)
def test_queries_that_cannot_be_counted_are_refused_where_they_stand(text: str, old: str, new: str, says: str) -> None:
    assert old in text
    assert says in "\n".join(notes(policies__slo=text.replace(old, new)))


def test_a_rollout_without_shadow_is_not_held_to_agreement() -> None:
    errors = Objective(name="errors", sli=Sli.ERRORS, target=0.99)
    agreement = Objective(name="agreement", sli=Sli.AGREEMENT, target=0.99)
    since = datetime(2026, 11, 23, tzinfo=UTC)

    def rollout(*phases: Phase) -> Rollout:
        records = tuple(PhaseRecord(phase=phase, weight_percent=0, since=since) for phase in phases)
        return Rollout(id="r1", started_at=since, records=records)

    assert asked_of(rollout(Phase.WARMING, Phase.SHADOW, Phase.CANARY), [errors, agreement]) == (errors, agreement)
    assert asked_of(rollout(Phase.WARMING, Phase.CANARY), [errors, agreement]) == (errors,)


def test_a_ratio_takes_no_threshold_and_one_side() -> None:
    with_value = ERRORS.replace("target: 0.99", "target: 0.99\n      op: lte\n      value: 200")
    assert "op and value belong to a thresholdMetric" in notes(policies__slo=with_value)[0]
    both = ERRORS.replace(
        "        total:",
        "        bad:\n          metricSource: {type: sluicegate, spec: {sli: errors}}\n        total:",
    )
    assert "a ratioMetric has total and one of good or bad" in notes(policies__slo=both)[0]


# --- documents against each other -----------------------------------------------------------------------------


def test_a_models_file_is_named_after_it() -> None:
    (note,) = notes(models__x=MODEL)
    assert (
        note
        == "models/x.yaml:3: error: name: the model 'fraud' belongs into the file models/fraud.yaml: rename this one"
    )
    (note,) = notes(models__fraud=MODEL.replace("name: fraud", "name: Fraud"))
    assert f"belongs into the file models/{slug('Fraud')}.yaml" in note


def test_two_models_with_one_safe_name() -> None:
    other = slug("Fraud")
    found = said(
        {
            "sluice.yaml": SLUICE,
            f"models/{other}.yaml": MODEL.replace("fraud", "Fraud"),
            "models/z.yaml": MODEL.replace("fraud", other),
        }
    )
    assert f"has the same safe name, {other}, as the model 'Fraud' in models/{other}.yaml" in "\n".join(found)


def test_a_name_that_deceives_is_refused_in_words() -> None:
    (note,) = notes(models__fraud=MODEL.replace("name: fraud", 'name: "a\\nb"'))
    assert "holds a control character (U+000A)" in note


@pytest.mark.parametrize(
    ("fraud", "spam", "says"),
    [
        ("/a", "/a", "models/spam.yaml:4: error: route: /a is the route of the model 'fraud' (models/fraud.yaml) too:"),
        (
            "/a",
            "/a/b",
            "models/spam.yaml:4: error: route: /a/b lies below the route /a of the model 'fraud' (models/fr",
        ),
        (
            "/a/b",
            "/a",
            "models/spam.yaml:4: error: route: /a has below it the route /a/b of the model 'fraud' (models/",
        ),
        (
            "/models/spam",
            None,
            (
                "models/fraud.yaml:4: error: route: /models/spam is the route of the model 'spam' (models/spam.yaml) "
                "too: choose another"
            ),
        ),
        ("/models/spam/x", None, "models/fraud.yaml:4: error: route: /models/spam/x lies below the route /models/spam"),
        (None, "/models/fraud", "models/spam.yaml:4: error: route: /models/fraud is the route of the model 'fraud' (m"),
        (None, "/models", "models/spam.yaml:4: error: route: /models has below it the route /models/fraud of the mode"),
    ],
)
def test_routes_that_meet_are_said_where_the_route_was_chosen_and_name_both_files(
    fraud: str | None, spam: str | None, says: str
) -> None:
    (note,) = notes(
        models__fraud=MODEL + (f"route: {fraud}\n" if fraud else ""),
        models__spam=MODEL.replace("fraud", "spam") + (f"route: {spam}\n" if spam else ""),
    )
    assert says in note


def test_of_three_models_with_one_route_the_later_two_are_told_also_where_the_first_is_served_elsewhere() -> None:
    route = "route: /a\n"
    same = {name: MODEL.replace("fraud", name) + route for name in ("fraud", "spam", "toxic")}
    first, second = notes(**{f"models__{name}": text for name, text in same.items()})
    assert "models/spam.yaml:4: error: route: /a is the route of the model 'fraud'" in first
    assert "models/toxic.yaml:4: error: route: /a is the route of the model 'fraud'" in second

    places = {"fraud": "[staging]", "spam": "[production]", "toxic": "[production]"}
    two = SLUICE + "  staging:\n    trigger: {stage: Staging}\n"
    apart = {f"models/{name}.yaml": f"{text}environments: {places[name]}\n" for name, text in same.items()}
    (only,) = said({"sluice.yaml": two, **apart})
    assert "models/toxic.yaml:4: error: route: /a is the route of the model 'spam' (models/spam.yaml) too" in only


def test_routes_that_only_look_alike_are_fine() -> None:
    spam = MODEL.replace("fraud", "spam") + "route: /a\n"
    assert notes(models__fraud=MODEL + "route: /ab\n", models__spam=spam) == []


def test_routes_in_different_environments_do_not_meet() -> None:
    two = SLUICE + "  staging:\n    trigger: {stage: Staging}\n"
    fraud = MODEL + "route: /a\nenvironments: [production]\n"
    spam = MODEL.replace("fraud", "spam") + "route: /a\nenvironments: [staging]\n"
    assert said({"sluice.yaml": two, "models/fraud.yaml": fraud, "models/spam.yaml": spam}) == []


def test_one_name_for_two_policies() -> None:
    (note,) = notes(policies__a=POLICY, policies__b=POLICY)
    assert "policies/b.yaml:3: error: name: a RolloutPolicy named mine is already in policies/a.yaml: give" in note
    (note,) = notes(policies__a=ERRORS, policies__b=ERRORS)
    assert "policies/b.yaml:6: error: metadata.name: a SLO named errors is already in policies/a.yaml" in note


def test_a_release_in_the_wrong_file() -> None:
    text = release_text(Release(model="spam", environment="production"))
    (note,) = said({"sluice.yaml": SLUICE, "environments/production/releases/fraud.yaml": text})
    assert "the release of 'spam' in 'production' does not belong into this file" in note


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("models/fraud.yml", "is not read: rename it to models/fraud.yaml"),
        ("models/../x.yaml", "is not read: the layout has no such place"),
        ("models/sub/fraud.yaml", "is not read: the layout has no such place"),
        ("environments/production/notes.txt", "is not read"),
        ("policies//x.yaml", "is not read"),
        ("environments/gone/serve.yaml", "sluice.yaml names no such environment"),
    ],
)
def test_a_stray_file_is_a_warning(path: str, says: str) -> None:
    reading = read_repo({"sluice.yaml": SLUICE, path: "a: 1"})
    (note,) = reading.notes
    assert note.severity is Severity.WARNING
    assert says in note.message
    assert reading.repo is not None


# --- paths ----------------------------------------------------------------------------------------------------

HOSTILE = ["..", "../x", "/etc/passwd", "a/b", "a\\b", "a\x00", "", ".", "a--b", "A", "a.yaml", "x" * 41, "a\n"]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leaves_its_folder(name: str) -> None:
    with pytest.raises(BadInput):
        model_path(name)
    with pytest.raises(BadInput):
        release_path("production", name)
    with pytest.raises(BadInput):
        history_path("production", name, "r1")


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "a/b", "", ".", "A", "a\n", "x" * 33])
def test_no_environment_leaves_its_folder(name: str) -> None:
    for path in (
        lambda: release_path(name, "fraud"),
        lambda: serve_path(name),
        lambda: history_path(name, "fraud", "r"),
    ):
        with pytest.raises(BadInput):
            path()


@pytest.mark.parametrize("rollout", ["", "..", "a/b", ".x", "a b", "x" * 101, "a\n"])
def test_no_rollout_leaves_its_folder(rollout: str) -> None:
    with pytest.raises(BadInput, match="no id for a rollout"):
        history_path("production", "fraud", rollout)


@given(st.text(min_size=1, max_size=50))
def test_every_model_that_has_a_slug_has_a_path_in_its_folder(name: str) -> None:
    try:
        safe = slug(name)
    except BadInput:
        return
    assert re.fullmatch(r"models/[a-z0-9-]+\.yaml", model_path(safe))
    located = locate(release_path("eu-1", safe))
    assert located is not None
    assert (located.environment, located.slug) == ("eu-1", safe)


# --- what Sluicegate writes -----------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
MOMENT = st.datetimes(
    min_value=datetime(2020, 1, 1),  # noqa: DTZ001  (Hypothesis adds the zone)
    max_value=datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=2))]),
)
DIGEST = st.text("0123456789abcdef", min_size=64, max_size=64).map(lambda digits: f"sha256:{digits}")
VERSION = st.integers(1, 10**9)
REASONS = st.lists(TEXT, max_size=3).map(tuple)
WHOLE = st.integers(-(10**15), 10**15)
AMOUNT = st.just(0.0) | st.floats(0.0001, 10**6)
ALONE = st.builds(
    Settings,
    cpus=st.floats(0.001, 512),
    gpus=st.just(0.0) | st.floats(0.0001, 64),
    memory_mib=st.none() | st.integers(64, 10**6),
    custom=st.dictionaries(TEXT.map(lambda name: f"a {name}"), AMOUNT, max_size=3),
    placement=st.none(),
    environment=st.sampled_from(["inherit", "pip", "uv"]),
    image=st.none(),
    packages=REASONS,
    env=st.dictionaries(TEXT, TEXT, max_size=3),
    features=st.none()
    | st.builds(
        Features,
        entry_point=st.just("shop.features:store"),
        key=TEXT.map(lambda name: f"key {name}"),
        defaults=st.dictionaries(
            TEXT.map(lambda name: f"a {name}"), st.none() | st.booleans() | WHOLE | TEXT, max_size=3
        ),
        required=st.lists(TEXT.map(lambda name: f"b {name}"), min_size=1, max_size=3, unique=True).map(tuple),
        options=st.dictionaries(TEXT, WHOLE | TEXT, max_size=3),
    ),
)
PLACED = st.builds(
    Settings,
    cpus=st.floats(0.001, 1),
    placement=st.builds(Placement, bundles=st.just(({"CPU": 1.0}, {"CPU": 2.0, "GPU": 0.5}))),
)
SETTINGS = ALONE | PLACED
REQUIREMENTS = st.lists(st.sampled_from(["mlflow==3.17.2", "own @ file:///own.whl"]), unique=True).map(tuple)
APPLICATION = st.builds(Application, version=VERSION, digest=DIGEST, settings=SETTINGS, requirements=REQUIREMENTS)
RECORD = st.builds(
    PhaseRecord,
    phase=st.sampled_from(Phase),
    weight_percent=st.integers(0, 100),
    since=MOMENT,
    live_since=st.none() | MOMENT,
    until=st.none() | MOMENT,
    verdict=st.none() | st.sampled_from(VerdictKind),
    reasons=REASONS,
)
CAUSE = st.none() | st.builds(Cause, kind=st.sampled_from(CauseKind), reasons=REASONS)
CHECK = st.builds(Check, name=st.sampled_from(CHECKS), outcome=st.sampled_from(CheckOutcome), words=TEXT, mend=TEXT)
REFUSED = st.builds(Refused, version=VERSION, reason=TEXT, checks=st.lists(CHECK, max_size=2).map(tuple))
ROLLOUT = st.builds(
    Rollout,
    id=st.from_regex(ROLLOUT_ID, fullmatch=True),
    started_at=MOMENT,
    step=st.integers(0, 100),
    records=st.lists(RECORD, min_size=1, max_size=3).map(tuple),
    paused_from=st.none() | st.sampled_from(Phase),
    clock_since=st.none() | MOMENT,
    cause=CAUSE,
    purpose=st.none() | st.sampled_from(Purpose),
    asked_by=TEXT,
    dispersion=st.dictionaries(TEXT, st.floats(1, 100), max_size=2),
    budget=st.dictionaries(TEXT, st.floats(0, 1e6), max_size=2),
    admission=st.lists(CHECK, max_size=2).map(tuple),
)
RELEASE = st.builds(
    Release,
    model=TEXT.filter(bool),
    environment=TEXT.filter(bool),
    revision=st.integers(0, 10**9),
    traffic_revision=st.integers(0, 10**9),
    phase=st.sampled_from(Phase),
    stable=st.none() | APPLICATION,
    candidate=st.none() | APPLICATION,
    weight_percent=st.integers(0, 100),
    rollout=st.none() | ROLLOUT,
    seen=st.lists(VERSION, max_size=5).map(tuple),
    queued=st.none() | VERSION,
    quarantine=st.lists(
        st.builds(Quarantined, version=VERSION, digest=DIGEST, rollout=TEXT, since=MOMENT, reasons=REASONS), max_size=2
    ).map(tuple),
    refused=st.lists(REFUSED, max_size=2).map(tuple),
    ask=st.none() | st.builds(Ask, wish=st.sampled_from(Wish), by=TEXT, why=TEXT, version=st.none() | VERSION),
    served=st.lists(APPLICATION, max_size=2).map(tuple),
)


def test_the_round_trip_knows_every_field_of_a_release() -> None:
    for kind, strategy in ((Release, RELEASE), (Rollout, ROLLOUT), (Settings, ALONE), (PhaseRecord, RECORD)):
        fields = {field.name for field in dataclasses.fields(kind)}
        assert fields == set(strategy.wrapped_strategy.kwargs), f"add the new fields of {kind.__name__} to this file"  # type: ignore[attr-defined]


@settings(max_examples=100, deadline=None)
@given(RELEASE)
def test_a_release_is_read_back_as_it_was_written(release: Release) -> None:
    text = release_text(release)
    again = parse_release(text)
    assert again == release
    assert release_text(again) == text


@settings(max_examples=50, deadline=None)
@given(RELEASE)
def test_the_same_state_is_the_same_bytes(release: Release) -> None:
    elsewhere = timezone(timedelta(hours=-7))
    rollout = release.rollout and dataclasses.replace(
        release.rollout, started_at=release.rollout.started_at.astimezone(elsewhere)
    )
    stable = release.stable and dataclasses.replace(
        release.stable,
        settings=dataclasses.replace(
            release.stable.settings, env=dict(reversed(list(release.stable.settings.env.items())))
        ),
    )
    same = dataclasses.replace(release, rollout=rollout, stable=stable)
    assert same == release
    assert release_text(same) == release_text(release)


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        HistoryRecord,
        model=TEXT,
        environment=TEXT,
        rollout=TEXT,
        version=VERSION,
        digest=DIGEST,
        stable_version=st.none() | VERSION,
        outcome=st.sampled_from(Outcome),
        started_at=MOMENT,
        ended_at=MOMENT,
        cause=CAUSE,
        phases=st.lists(RECORD, max_size=3).map(tuple),
        purpose=st.none() | st.sampled_from(Purpose),
        dispersion=st.dictionaries(TEXT, st.floats(1, 100), max_size=2),
    )
)
def test_a_record_is_read_back_as_it_was_written(record: HistoryRecord) -> None:
    text = history_text(record)
    again = parse_history(text)
    assert again == record
    assert history_text(again) == text
    assert json.loads(text)["kind"] == "HistoryRecord"


def test_a_release_as_people_read_it() -> None:
    since = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    record = PhaseRecord(
        phase=Phase.SHADOW, weight_percent=0, since=since, verdict=VerdictKind.PASS, reasons=("0 of 9",)
    )
    release = Release(
        model="Fraud / EU",
        environment="production",
        revision=7,
        phase=Phase.SHADOW,
        stable=Application(version=1, digest=f"sha256:{1:064x}"),
        rollout=Rollout(id="r1", started_at=since, records=(record,)),
        seen=(1, 2),
    )
    assert release_text(release).splitlines() == [
        "# Written by Sluicegate: the desired state. To change it, use `sluice`, or revert a commit.",
        "apiVersion: sluicegate/v1",
        "kind: Release",
        'model: "Fraud / EU"',
        "environment: production",
        "revision: 7",
        "traffic_revision: 0",
        "phase: SHADOW",
        "stable:",
        "  version: 1",
        f"  digest: sha256:{1:064x}",
        "  settings:",
        "    cpus: 1.0",
        "    gpus: 0.0",
        "    environment: inherit",
        "weight_percent: 0",
        "rollout:",
        "  id: r1",
        '  started_at: "2026-11-23T12:00:00Z"',
        "  step: 0",
        "  records:",
        "    - phase: SHADOW",
        "      weight_percent: 0",
        '      since: "2026-11-23T12:00:00Z"',
        "      verdict: PASS",
        "      reasons:",
        '        - "0 of 9"',
        "seen: [1, 2]",
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("phase: STEADY", "phase: steady", "phase: should be 'STEADY'"),
        ("\nrevision: 0", "\nrevision: -1", "r.yaml:6: error: revision: should be greater than or equal to 0, not -1"),
        ("weight_percent: 0", "weight: 0", "weight: is not known here; did you mean weight_percent?"),
        ("kind: Release", "kind: Model", "kind: 'Model' does not belong here"),
    ],
)
def test_a_release_that_somebody_changed(old: str, new: str, says: str) -> None:
    text = release_text(Release(model="fraud", environment="production"))
    with pytest.raises(BadInput) as caught:
        parse_release(text.replace(old, new), "r.yaml")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("\nrevision: 0", "\nrevision: 999999999999999999", "error: revision: is above 1000000000000000, which no"),
        ("\ntraffic_revision: 0", "\ntraffic_revision: 1000000000000001", "error: traffic_revision: is above 1000000"),
        ('started_at: "2026', 'started_at: "0001', "error: phase: 0001-11-23T12:00:00+00:00 is no moment of a rollout"),
        ('started_at: "2026', 'started_at: "9999', "error: phase: 9999-11-23T12:00:00+00:00 is no moment of a rollout"),
        ("id: r1", "id: ../../../x", "error: rollout.id: should be letters, digits, - and _ only, at most 100"),
        ("id: r1", f"id: {'r' * 101}", "error: rollout.id: should be letters, digits, - and _ only, at most 100"),
    ],
)
def test_what_could_not_be_written_on_from_is_said_with_file_and_field_and_by_lint_too(
    old: str, new: str, says: str
) -> None:
    since = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    records = (PhaseRecord(phase=Phase.WARMING, weight_percent=0, since=since),)
    release = Release(
        model="fraud",
        environment="production",
        phase=Phase.WARMING,
        candidate=Application(version=1, digest=f"sha256:{1:064x}"),
        rollout=Rollout(id="r1", started_at=since, records=records),
    )
    good, path = release_text(release).replace('id: "r1"', "id: r1"), "environments/production/releases/fraud.yaml"
    assert read_repo({"sluice.yaml": SLUICE, path: good}).repo is not None
    reading = read_repo({"sluice.yaml": SLUICE, path: good.replace(old, new)})
    assert [str(n) for n in reading.notes if n.file == path and says in str(n)], reading.notes
    assert reading.repo is None


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"model": 5}', "[" * 100_000, '{"a": 1}'])
def test_a_record_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"^h\.json: "):
        parse_history(text, "h.json")


@given(st.timedeltas(min_value=timedelta(), max_value=timedelta(days=3650)))
def test_a_duration_is_read_back_as_it_was_written(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18) + 1, 10**18 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
WHOLE = {
    "sluice.yaml": parse(SLUICE, "x").data,
    "models/fraud.yaml": {**parse(MODEL, "x").data, "settings": {"cpus": 1, "env": {"A": "b"}}, "slos": ["errors"]},
    "policies/mine.yaml": {**parse(POLICY, "x").data, "steps": [5], "step": {"min_duration": "5m"}},
    "policies/slo.yaml": parse(LATENCY, "x").data,
    "environments/production/serve.yaml": {"applications": []},
    "environments/production/releases/fraud.yaml": parse(
        release_text(Release(model="fraud", environment="production")), "x"
    ).data,
}


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_stands_in_a_document_becomes_a_note_and_never_a_crash(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(WHOLE)))
    files = {file: dump(content) for file, content in WHOLE.items()}
    files[path] = dump(_mutated(data, WHOLE[path]))
    reading = read_repo(with_defaults(files, built_in_documents()))
    assert (reading.repo is None) == any(note.severity is Severity.ERROR for note in reading.notes)
    if reading.repo is not None:
        assert all(note.file for note in check(reading.repo))


def _mutated(data: st.DataObject, node: Any) -> Any:
    """The same document with something else somewhere."""
    if not node or not isinstance(node, dict | list) or data.draw(st.integers(0, 3)) == 0:
        return data.draw(JSON)
    if isinstance(node, list):
        at = data.draw(st.integers(0, len(node) - 1))
        return [_mutated(data, inner) if i == at else inner for i, inner in enumerate(node)]
    key = data.draw(st.sampled_from(sorted(node)) | TEXT)
    return {**node, key: _mutated(data, node.get(key))}


def test_a_route_of_a_model_with_an_odd_name() -> None:
    assert route_of(ModelDocument(name="Fraud / EU")) == f"/models/{slug('Fraud / EU')}"


# --- values that would stop the loop ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "field", "says"),
    [
        ("policies/slow.yaml", "max_duration: 999999999d\n", "longer than ten years"),
        ("policies/slow.yaml", "metrics_deadline: 3651d\n", "longer than ten years"),
        ("models/fraud.yaml", "request_timeout: 0s\n", "above 0s and at most 1h"),
        ("models/fraud.yaml", "request_timeout: 2h\ngraceful_shutdown: 3h\n", "above 0s and at most 1h"),
    ],
)
def test_a_time_that_nothing_could_be_done_with_is_refused_when_it_is_read(path: str, field: str, says: str) -> None:
    heads = {
        "policies/slow.yaml": "kind: RolloutPolicy\nname: slow\n",
        "models/fraud.yaml": "kind: Model\nname: fraud\n",
    }
    sluice = "apiVersion: sluicegate/v1\nkind: Sluice\nenvironments:\n  production:\n    trigger: {stage: Production}\n"
    text = f"apiVersion: sluicegate/v1\n{heads[path]}{field}"
    reading = read_repo(with_defaults({"sluice.yaml": sluice, path: text}, built_in_documents()))
    assert reading.repo is None
    assert says in " ".join(str(n) for n in reading.notes)


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("phase: CANARY\n", "CANARY has a rollout and a candidate"),
        (f"candidate: {{version: 2, digest: 'sha256:{2:064x}'}}\n", "STEADY has neither"),
    ],
)
def test_a_release_that_contradicts_itself_is_refused(field: str, says: str) -> None:
    sluice = "apiVersion: sluicegate/v1\nkind: Sluice\nenvironments:\n  production:\n    trigger: {stage: Production}\n"
    release = f"apiVersion: sluicegate/v1\nkind: Release\nmodel: fraud\nenvironment: production\n{field}"
    reading = read_repo({"sluice.yaml": sluice, "environments/production/releases/fraud.yaml": release})
    assert reading.repo is None
    assert says in " ".join(str(n) for n in reading.notes)
