"""The log of a replica: Serve's own file and format, with the fields that tie a line to a request; errors to Sentry.

Rules:
- A line goes where Serve's own go. With `RAY_SERVE_LOG_ENCODING=JSON` (or a `logging_config` that says so) each is a
  JSON object; `model`, `version`, `build` are in all of ours, `request_id` in those about one request.
- A traceback is text before Serve's formatters see it: they print it, and in a replica `print` is Serve's own, which
  writes each of its lines as a tuple (`ray.serve._private.logging_utils: redirected_print`, Ray 2.60).
- What a line says of a request is its id: never a body, a header, a key.
- Errors go to Sentry where `SENTRY_DSN` is set and its SDK is installed, with the same fields; without local variables
  and without requests, which hold what users sent.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final

_log = logging.getLogger(__name__)

DSN_VARIABLE: Final = "SENTRY_DSN"


class NamedLines(logging.Handler):
    """Gives each line the replica's own fields and hands it to other handlers."""

    def __init__(self, fields: Mapping[str, str], handlers: Sequence[logging.Handler]) -> None:
        super().__init__()
        self._fields = dict(fields)
        self._others = handlers  # the list itself: Serve may change it

    def emit(self, record: logging.LogRecord) -> None:
        """Pass it on; another handler's level is respected."""
        record.__dict__.update(self._fields)
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            record.exc_text = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
        for handler in self._others:
            if record.levelno >= handler.level:
                handler.handle(record)


def start_log(fields: Mapping[str, str]) -> None:
    """Let this package's log go where Serve's own goes, the replica's log file, and its errors to Sentry if asked."""
    own = logging.getLogger(__package__)
    own.handlers = [NamedLines(fields, logging.getLogger("ray.serve").handlers)]
    own.setLevel(logging.INFO)
    own.propagate = False
    join_sentry(os.environ, fields)


def about(request_id: str) -> dict[str, Any]:
    """What ties a line to a request: `_log.error("...", extra=about(call.request_id))`."""
    return {"request_id": request_id}


def join_sentry(environment: Mapping[str, str], fields: Mapping[str, str]) -> bool:
    """Send errors to Sentry from now on, where the environment says so. False: nothing is sent. Never raises."""
    if not environment.get(DSN_VARIABLE):
        return False
    if importlib.util.find_spec("sentry_sdk") is None:
        _log.warning("%s is set, but sentry_sdk is not installed: no error is sent there", DSN_VARIABLE)
        return False
    import sentry_sdk

    try:
        sentry_sdk.init(
            dsn=environment[DSN_VARIABLE],
            include_local_variables=False,
            max_request_body_size="never",
            default_integrations=True,
            auto_enabling_integrations=False,  # those of web frameworks and clients, which see requests
        )
    except ValueError as error:
        _log.error("no error is sent to Sentry: %s is no address of it (%s)", DSN_VARIABLE, type(error).__name__)
        return False
    for name, value in fields.items():
        sentry_sdk.set_tag(name, value)
    return True
