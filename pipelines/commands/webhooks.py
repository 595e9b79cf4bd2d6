"""`sluice webhooks install`: registers the webhook in MLflow, says what its server must allow and a forge be told."""

from __future__ import annotations

import dataclasses

from pipelines.settings import Settings, webhook_secret
from policies.documents import SluiceDocument
from policies.errors import BadInput, Stalled
from policies.webhooks import Source, mlflow_must_allow, source_of
from registry_bridge.mlflow_webhooks import MlflowWebhooks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Installed:
    """What was done, in lines; `well` is False where MLflow could not reach the reconciler."""

    lines: tuple[str, ...]
    well: bool


def install(sluice: SluiceDocument, settings: Settings, url: str | None = None) -> Installed:
    """Register it in MLflow. Raises BadInput for what is not set, Retry, Stalled with what the server must allow."""
    base = (url or _address(sluice)).rstrip("/")
    secret = webhook_secret(settings.environment, "mlflow")
    if secret is None:
        raise BadInput("set SLUICE_MLFLOW_WEBHOOK_SECRET, here and for `sluice run`: openssl rand -hex 32 makes one")
    address = f"{base}/webhooks/{Source.MLFLOW}"
    try:
        done = MlflowWebhooks(sluice.registry.tracking_uri).install(address, secret)
    except Stalled as error:
        raise Stalled("\n".join((str(error), *_allowed(address)))) from error
    verb = "registered" if done.created else "brought up to date"
    heard = f"reached: {done.answer}" if done.reached else f"NOT reached: {done.answer or 'without a word'}"
    return Installed(
        lines=(f"MLflow: webhook {verb}: {address}", f"MLflow: {heard}", *_allowed(address), *_forge(sluice, base)),
        well=done.reached,
    )


def _address(sluice: SluiceDocument) -> str:
    if sluice.webhooks is None:
        raise BadInput("sluice.yaml has no webhooks, so nobody would listen: add `webhooks: {}` (docs/webhooks.md)")
    return sluice.webhooks.url or f"http://{sluice.webhooks.listen}"


def _allowed(address: str) -> tuple[str, ...]:
    needed = mlflow_must_allow(address)
    return ("The MLflow server's own environment must have:", *(f"  {name}: {value}" for name, value in needed.items()))


def _forge(sluice: SluiceDocument, base: str) -> tuple[str, ...]:
    if sluice.forge is None:
        return ()
    source = source_of(sluice.forge.kind)
    return (
        f"At the forge add a webhook for {sluice.forge.repository} by hand:",
        f"  address {base}/webhooks/{source}, content type application/json,",
        "  secret as in SLUICE_FORGE_WEBHOOK_SECRET, events push and pull request (GitLab: merge request)",
    )
