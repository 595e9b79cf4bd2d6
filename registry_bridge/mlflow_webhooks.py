"""The door to MLflow's webhooks: ours is registered once, by its name, and tried.

Rules:
- One webhook of this name: it is made, or brought to this address and secret. Others are left alone.
- MLflow keeps the secret and never shows it again, so it is sent every time.

It must not decide which address MLflow should call.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from policies.errors import Stalled
from registry_bridge.mlflow_words import in_our_words, set_patience

NAME: Final = "sluicegate"
EVENTS: Final = (
    "registered_model.created",
    "model_version.created",
    "model_version_tag.set",
    "model_version_tag.deleted",
    "model_version_alias.created",
    "model_version_alias.deleted",
)
"""Everything that MLflow tells of registered models; it tells nothing of stages."""
TRIED_WITH: Final = "model_version.created"
PAGE: Final = 100
WORDS: Final = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class Registered:
    """What became of it."""

    created: bool
    """Made, or one that was there brought up to date."""
    reached: bool
    """MLflow sent a test and got a good answer."""
    answer: str
    """What it was answered, or why it could not send."""


class MlflowWebhooks:
    """Webhooks of the MLflow server at `tracking_uri`; managing them needs MLflow's admin where it has users."""

    def __init__(self, tracking_uri: str) -> None:
        set_patience()
        self._tracking_uri = tracking_uri

    def install(self, url: str, secret: str) -> Registered:
        """Have MLflow call `url`, signed with `secret`. Raises Retry, Stalled (what MLflow does not allow)."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._tracking_uri, registry_uri=self._tracking_uri)
        about = {"name": NAME, "url": url, "events": list(EVENTS), "secret": secret, "status": "ACTIVE"}
        with in_our_words(f"registering a webhook in MLflow ({self._tracking_uri})"):
            found = self._ours(client)
            if found is None:
                hook = client.create_webhook(**about, description="Makes Sluicegate look at once")
            else:
                hook = client.update_webhook(found.webhook_id, **about)
            tried = client.test_webhook(hook.webhook_id, TRIED_WITH)
        status = f"{tried.response_status}: " if tried.response_status else ""
        words = f"{status}{tried.error_message or tried.response_body or ''}".strip()[:WORDS]
        return Registered(created=found is None, reached=bool(tried.success), answer=words)

    def _ours(self, client: Any) -> Any:
        found, token = [], None
        while True:
            page = client.list_webhooks(max_results=PAGE, page_token=token)
            found += [hook for hook in page if hook.name == NAME]
            token = page.token
            if not token:
                break
        if len(found) > 1:
            raise Stalled(f"MLflow has {len(found)} webhooks that are called {NAME}: delete all but one")
        return found[0] if found else None
