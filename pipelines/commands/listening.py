"""The reconciler's ear: listens for webhooks as `sluice.yaml` says, while the loop runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipelines.reconciler import Tick
from pipelines.settings import Settings, webhook_secret
from policies.documents import SluiceDocument
from policies.errors import SluiceError
from policies.webhooks import Source, source_of

if TYPE_CHECKING:
    from pipelines.http_thread import HttpThread
    from pipelines.webhook_app import Receiver

_LOG = logging.getLogger(__name__)


class WebhookListener:
    """Follows `webhooks:` in the tip: starts, stops and moves with it. A context manager, to stop at the end.

    What keeps it from listening is said once and does not stop the loop: without webhooks it only looks later.
    """

    def __init__(self, settings: Settings, wake: Callable[[], None], say: Callable[[str], None]) -> None:
        self._settings, self._wake, self._say = settings, wake, say
        self._followed: object = None
        self._server: HttpThread | None = None
        self._receiver: Receiver | None = None

    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """What became of deliveries since it listens, by source and outcome."""
        counted: dict[str, dict[str, int]] = {}
        for (source, outcome), count in dict(self._receiver.counts if self._receiver else {}).items():
            counted.setdefault(source.value, {})[outcome.value] = count
        return counted

    @property
    def port(self) -> int | None:
        """Where it listens; None where it does not."""
        return self._server.port if self._server else None

    def follow(self, tick: Tick) -> None:
        """Listen as the documents in force say; a tick that saw none changes nothing."""
        if tick.plan is None:
            return
        sluice = tick.plan.look.documents.sluice
        wanted = (sluice.webhooks, sluice.forge.kind if sluice.forge else None)
        if wanted == self._followed:
            return
        self._followed = wanted
        self.stop()
        if sluice.webhooks is not None:
            self._start(sluice)

    def stop(self) -> None:
        """Listen no longer; safe to repeat."""
        if self._server is not None:
            self._server.stop()
            self._server = self._receiver = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _start(self, sluice: SluiceDocument) -> None:
        from pipelines.http_thread import HttpThread
        from pipelines.webhook_app import Receiver

        assert sluice.webhooks is not None  # noqa: S101  (follow)
        try:
            secrets = self._secrets(sluice)
            if not secrets:
                self._say("webhooks: none is heard: set SLUICE_MLFLOW_WEBHOOK_SECRET or SLUICE_FORGE_WEBHOOK_SECRET")
                return
            receiver = Receiver(secrets, sluice.webhooks.window, self._wake)
            host, _, port = sluice.webhooks.listen.rpartition(":")
            server = HttpThread(receiver.app(), host.strip("[]"), int(port)).start()
        except SluiceError as error:
            self._say(f"webhooks: none is heard: {error}")
            return
        self._server, self._receiver = server, receiver
        self._say(f"webhooks: listening on {sluice.webhooks.listen} for {', '.join(secrets)}")

    def _secrets(self, sluice: SluiceDocument) -> dict[Source, str]:
        """By source; one whose secret is not set is not heard."""
        environment = self._settings.environment
        found = {Source.MLFLOW: webhook_secret(environment, "mlflow")}
        if sluice.forge is not None:
            found[source_of(sluice.forge.kind)] = webhook_secret(environment, "forge")
        return {source: secret for source, secret in found.items() if secret}
