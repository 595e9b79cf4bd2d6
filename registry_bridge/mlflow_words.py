"""How we speak to MLflow: our patience set, its errors in our words, names as its filters understand them.

Rules:
- MLflow's own patience is 7 retries of 120 s: 15 minutes in which the loop is deaf. Ours is seconds; what an operator
  sets in MLflow's own environment variables stays.
- Every error of MLflow and of what lies below it becomes `Retry` or `Stalled`, in a sentence that begins with what was
  tried.
- A model's name comes from a stranger: nothing of it enters a filter but letters, digits and `_`, `-`, `.`, space.

This module must not call MLflow, and imports it only once it is needed (4 s).
"""

from __future__ import annotations

import os
import unicodedata
import urllib.parse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from policies.errors import Retry, SluiceError, Stalled

PATIENCE = {
    # Seconds for one answer. The slowest measured is every version of all models: 1.9 s for 5,000.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # One, at once: a kept connection that the server closed. The next look is the real retry.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0.5",
    # A server that is overloaded may ask for minutes; the loop comes back by itself.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    # Bars in a log file, and news of our use to strangers.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""MLflow has no such settings per client: they hold for the process."""
REASON_CHARACTERS = 400
"""Of MLflow's words in a reason: requests' errors repeat the whole URL, filter and all, three times."""
FILTER_CHARACTERS = 3_500
"""Of one URL-encoded filter: the request line stays below gunicorn's 4,094, the smallest of the usual limits.

The longest name (250 characters outside Unicode's first plane) takes 3,000.
"""
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-. ")
_FIRST_PLANE = 0x10000
_PERSON_MUST_ACT = range(400, 500)
_TRY_AGAIN = frozenset({408, 409, 429, 499})
"""Among those: timed out, conflict, too many requests, cancelled."""
_STALLED_CODES = frozenset({"INVALID_STATE", "NOT_IMPLEMENTED", "FEATURE_DISABLED"})
"""MLflow gives these a status of 500, though no second try will change them."""


def set_patience() -> None:
    """Bound MLflow's timeouts and retries in this process, where the operator has not."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)


@contextmanager
def in_our_words(attempt: str) -> Iterator[None]:
    """Errors inside become Retry or Stalled that begin with `attempt` ("reading fraud from MLflow")."""
    from google.protobuf.json_format import Error as NotProtobuf
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise _translated(attempt, error.error_code, error.get_http_status_code(), error) from error
    except (OSError, NotProtobuf) as error:  # OSError: requests' errors, sockets, the disk
        raise Retry(f"{attempt} failed: {_short(error)}") from error


@contextmanager
def in_our_words_for_artifacts(attempt: str) -> Iterator[None]:
    """The same for an artifact store: MLflow hands on what botocore raises."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        with in_our_words(attempt):
            yield
    except NoCredentialsError as error:
        raise Stalled(f"{attempt} failed: {_short(error)}; set the credentials of the artifact store") from error
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        raise _translated(attempt, "", status, error) from error
    except BotoCoreError as error:
        raise Retry(f"{attempt} failed: {_short(error)}") from error


def _translated(attempt: str, code: str, status: int, error: Exception) -> SluiceError:
    words = f"{attempt} failed: {_short(error)}"
    if code in _STALLED_CODES or (status in _PERSON_MUST_ACT and status not in _TRY_AGAIN):
        return Stalled(words)
    return Retry(words)


def _short(error: BaseException) -> str:
    """The error's words on one line, without the middle where they are long: what and why stand at the ends."""
    words = " ".join(str(error).split()) or type(error).__name__
    half = REASON_CHARACTERS // 2
    return words if len(words) <= REASON_CHARACTERS else f"{words[:half]} ... {words[-half:]}"


def name_filters(names: Iterable[str], most: int) -> Iterator[str]:
    """Filters that together select exactly these names; `most` at most in each, none above FILTER_CHARACTERS.

    A name that is no Unicode text is left out: no model has it, and the server would fail on the whole filter.
    """
    group: list[str] = []
    for name in sorted({name for name in names if _is_text(name)}):
        longer = [*group, _literal(name)]
        if group and (len(longer) > most or len(urllib.parse.quote(_filter(longer))) > FILTER_CHARACTERS):
            yield _filter(group)
            longer = longer[-1:]
        group = longer
    if group:
        yield _filter(group)


def _is_text(name: str) -> bool:
    return not any(unicodedata.category(c) == "Cs" for c in name)


def _filter(literals: list[str]) -> str:
    return f"name IN ({', '.join(literals)})"


def _literal(name: str) -> str:
    """MLflow reads a list in a filter as Python reads a tuple of strings, so that its escapes name every character.

    After `=` it does not: there a name with both kinds of quotes cannot be said at all.
    """
    return "'" + "".join(c if c in _PLAIN else _escape(ord(c)) for c in name) + "'"


def _escape(code: int) -> str:
    return f"\\u{code:04x}" if code < _FIRST_PLANE else f"\\U{code:08x}"
