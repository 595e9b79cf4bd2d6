"""Whether a webhook is what it says it is: signatures, times, and what was seen before. Pure: `now` is an argument.

| source | what shows that it is genuine | what shows that it is new |
| --- | --- | --- |
| MLflow | HMAC over delivery id, time and body | the time, and the delivery id |
| GitHub | HMAC over the body | the body's signature, and the delivery id, which is not signed |
| Gitea, Forgejo | the same | the same |
| GitLab | a secret token, which signs nothing | the body, and GitLab's ids |

Rules:
- Secrets and signatures are compared in constant time; an empty secret opens nothing.
- A delivery says only that somebody should look. Nothing of it is believed, so nothing of it is kept but hashes.
- What Sluicegate itself wrote into MLflow (its own tags) wakes nobody.

Sources: MLflow's `mlflow/webhooks/delivery.py` and https://mlflow.org/docs/latest/ml/webhooks;
https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries;
https://docs.gitea.com/usage/webhooks; https://docs.gitlab.com/user/project/integrations/webhooks/.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import ipaddress
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import urlsplit

from policies.loopback import is_loopback
from policies.promotion import TAG_PREFIX


class Source(StrEnum):
    """Who sends webhooks; also the last part of the path that they are sent to."""

    MLFLOW = "mlflow"
    GITHUB = "github"
    GITEA = "gitea"
    GITLAB = "gitlab"


class Outcome(StrEnum):
    """What becomes of a delivery."""

    ACCEPTED = "accepted"
    """It is genuine and new; the loop is woken."""
    OWN = "own"
    """It is genuine and new, and about what Sluicegate wrote itself: nobody is woken."""
    FORGED = "forged"
    """The signature or token is missing or wrong."""
    REPLAYED = "replayed"
    """It is genuine and was here before."""
    STALE = "stale"
    """It is genuine, and its time is outside the window."""
    OVERSIZED = "oversized"
    """Larger than a webhook may be; it was not read."""
    WRONG_CONTENT = "wrong_content"
    """No JSON, or more than one signature."""
    TOO_MANY = "too_many"
    """More than one source may send."""
    TOO_SLOW = "too_slow"
    """Its body did not arrive in time."""


WINDOW_SOURCES = frozenset({Source.MLFLOW})
"""Those whose deliveries carry a signed time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delivery:
    """A genuine delivery, as far as it alone can tell."""

    keys: frozenset[str]
    """It was here before if one of these was."""
    own: bool = False


def source_of(kind: str) -> Source:
    """The source for a forge of this kind; Forgejo signs as Gitea does."""
    return Source.GITEA if kind == "forgejo" else Source(kind)


def judge(
    source: Source, headers: Mapping[str, str], body: bytes, secret: str, now: datetime, window: timedelta
) -> Delivery | Outcome:
    """Is it genuine? `headers` have lower-case names. A delivery, or why it is refused."""
    match source:
        case Source.MLFLOW:
            judged = _mlflow(headers, body, secret, now, window)
        case Source.GITHUB:
            signature = headers.get("x-hub-signature-256", "")
            judged = _signed_body(signature.removeprefix("sha256="), body, secret, headers.get("x-github-delivery"))
        case Source.GITEA:
            signature = headers.get("x-gitea-signature") or headers.get("x-forgejo-signature", "")
            delivery = headers.get("x-gitea-delivery") or headers.get("x-forgejo-delivery")
            judged = _signed_body(signature, body, secret, delivery)
        case Source.GITLAB:
            judged = _gitlab(headers, body, secret)
    if isinstance(judged, Outcome):
        return judged
    content = _content(body)
    if content is None:
        return Outcome.WRONG_CONTENT
    return dataclasses.replace(judged, own=source is Source.MLFLOW and _is_own(content))


def mlflow_signature(secret: str, delivery: str, sent: str, body: bytes) -> str:
    """As MLflow signs: `v1,` and base64 of HMAC-SHA256 over `id.time.body`."""
    signed = b".".join((delivery.encode(), sent.encode(), body))
    return "v1," + base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()


def body_signature(secret: str, body: bytes) -> str:
    """As GitHub (after `sha256=`) and Gitea sign: hex of HMAC-SHA256 over the body."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def mlflow_must_allow(url: str) -> Mapping[str, str]:
    """What the MLflow server's environment needs before it sends to this address: variable and value, or words."""
    parts = urlsplit(url)
    needed = {"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "a Fernet key that stays, or a restart forgets the secret"}
    if parts.scheme != "https":
        needed["MLFLOW_WEBHOOK_ALLOWED_SCHEMES"] = "https,http"
    host = parts.hostname or ""
    private = "true" if _is_private(host) else f"true, where {host} is not a public address"
    return {**needed, "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": private}


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return is_loopback(host) or "." not in host


_DIGITS = 12
"""Of a moment in seconds: more are tens of thousands of years away."""


def _mlflow(
    headers: Mapping[str, str], body: bytes, secret: str, now: datetime, window: timedelta
) -> Delivery | Outcome:
    delivery, sent = headers.get("x-mlflow-delivery-id", ""), headers.get("x-mlflow-timestamp", "")
    if not delivery or not _same(headers.get("x-mlflow-signature", ""), mlflow_signature(secret, delivery, sent, body)):
        return Outcome.FORGED
    # Python makes no number of some thousands of digits, and no float of some hundreds.
    if not sent.isdecimal() or len(sent) > _DIGITS or abs(now.timestamp() - int(sent)) > window.total_seconds():
        return Outcome.STALE
    return Delivery(keys=frozenset({_hashed("id", delivery)}))


def _signed_body(signature: str, body: bytes, secret: str, delivery: str | None) -> Delivery | Outcome:
    expected = body_signature(secret, body)
    if not _same(signature, expected):
        return Outcome.FORGED
    ids = {_hashed("id", delivery)} if delivery else set()
    return Delivery(keys=frozenset({_hashed("body", expected), *ids}))


def _gitlab(headers: Mapping[str, str], body: bytes, secret: str) -> Delivery | Outcome:
    if not _same(headers.get("x-gitlab-token", ""), secret):
        return Outcome.FORGED
    given = (headers.get("idempotency-key"), headers.get("x-gitlab-webhook-event-uuid"))
    ids = {_hashed("id", each) for each in given if each}
    return Delivery(keys=frozenset({_hashed("body", hashlib.sha256(body).hexdigest()), *ids}))


def _same(given: str, expected: str) -> bool:
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())


def _hashed(kind: str, text: str) -> str:
    """As long as it needs to be, however long a stranger's id is."""
    return hashlib.sha256(f"{kind}:{text}".encode()).hexdigest()[:32]


def _content(body: bytes) -> Mapping[str, object] | None:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _is_own(content: Mapping[str, object]) -> bool:
    data = content.get("data")
    if content.get("entity") != "model_version_tag" or not isinstance(data, dict):
        return False
    key = str(data.get("key", ""))
    return key.startswith(TAG_PREFIX) and "." in key.removeprefix(TAG_PREFIX)  # sluice.<environment>.<word>
