"""Prometheus's HTTP API: the series that answer a query, or why there are none.

Rules:
- One query at a time, with a limit on every wait; a refused connection is tried again, an answer that hangs is not.
- An answer in part (warnings) is no answer: the client would leave the missing data out without a word.
- Whatever answers instead (an error page, a proxy's login page, a scalar) is named, and never guessed at.

This module must not know what the series count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from requests import ConnectionError as NoConnection
from requests import RequestException, Response, Session, Timeout
from urllib3.exceptions import ReadTimeoutError
from urllib3.util.retry import Retry as HttpRetry

from policies.counters import Series

CONNECT_S = 5.0
"""A server that is there accepts at once; two more tries follow."""

READ_S = 30.0
"""For an answer: Prometheus gives a query up before (QUERY_S), so longer means that it hangs."""

QUERY_S = 25
"""Asked of Prometheus: below READ_S, so that its own reason arrives."""

CONNECT_TRIES = 2
"""More tries after the first where a connection is refused or a gateway says 502 to 504: a restart takes a moment."""

LONGEST_ERROR = 200
"""Characters of a server's error page in a reason."""


class Away(Exception):
    """Prometheus did not answer; the text is the reason. It never leaves the door.

    With `wholly`, asking on in the same look is of no use.
    """

    def __init__(self, reason: str, *, wholly: bool) -> None:
        super().__init__(reason)
        self.wholly = wholly


class PartialAnswer(RequestException):
    """Prometheus answered with warnings: some of the data is missing, and the client would not say so."""


class PrometheusApi:
    """What speaks it at one address."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, *, read_s: float = READ_S) -> None:
        """`headers` go along with each query (`Authorization`); `read_s` is how long an answer may take, seconds."""
        self._url = url.rstrip("/")
        self._read_s = read_s
        self._client = _client(self._url, headers)

    def series(self, query: str, at_ms: int) -> list[Series]:
        """One query at a time (milliseconds since the epoch). Raises Away, and nothing of the client's own errors."""
        try:
            answer = self._client.custom_query(
                query,
                params={"time": f"{at_ms / 1000:.3f}", "timeout": f"{QUERY_S}s"},
                timeout=(CONNECT_S, self._read_s),
            )
            return [_series(item) for item in answer]
        except PrometheusApiClientException as error:
            raise _refused(self._url, error) from error
        except Timeout as error:
            raise Away(f"Prometheus at {self._url} did not answer within {self._read_s:g} s", wholly=True) from error
        except NoConnection as error:
            words = (
                f"did not answer within {self._read_s:g} s" if _hung(error) else f"cannot be reached: {_cause(error)}"
            )
            raise Away(f"Prometheus at {self._url} {words}", wholly=True) from error
        except PartialAnswer as error:
            raise Away(f"Prometheus answered in part only: {error}", wholly=False) from error
        except (RequestException, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            # A server error page, a proxy's login page, a scalar: whatever it is, it is no answer to this question.
            raise Away(
                f"what answers at {self._url} is not understood: {type(error).__name__} {_short(str(error))}",
                wholly=False,
            ) from error


def _client(url: str, headers: Mapping[str, str] | None) -> PrometheusConnect:
    retry = HttpRetry(
        total=CONNECT_TRIES,
        connect=CONNECT_TRIES,
        read=0,
        backoff_factor=0.2,
        status_forcelist=[502, 503, 504],
        raise_on_status=False,
    )
    session = Session()
    session.hooks["response"].append(_refuse_partial)
    return PrometheusConnect(url=url, headers=dict(headers or {}), session=session, retry=retry)


def _refuse_partial(response: Response, *_: Any, **__: Any) -> None:
    """Raises PartialAnswer where the answer has warnings.

    The bytes looked for first are a key of the answer: in a label's value the quotes would be escaped.
    """
    if b'"warnings":' not in response.content:
        return
    answer = response.json()
    warnings = answer.get("warnings") if isinstance(answer, dict) else None
    if warnings:
        raise PartialAnswer(_short("; ".join(str(w) for w in warnings)))


def _refused(url: str, error: Exception) -> Away:
    status = re.search(r"HTTP Status Code (\d+)", str(error))
    return Away(
        f"Prometheus at {url} refused the query: {_short(str(error))}",
        wholly=status is None or status[1].startswith("5") or status[1] in ("401", "403"),
    )


def _hung(error: NoConnection) -> bool:
    """A read that timed out is no `Timeout` where retries are set: urllib3 has counted it as its last try."""
    return bool(error.args) and isinstance(getattr(error.args[0], "reason", None), ReadTimeoutError)


def _cause(error: BaseException) -> str:
    """The innermost words (Connection refused) rather than the pool's account of it."""
    words = str(error)
    return _short(words.rsplit(": ", 1)[-1].rstrip("')\""))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_ERROR else text[:LONGEST_ERROR] + "..."


def _series(item: Any) -> Series:
    """One element of an answer, vector or matrix. Raises KeyError, TypeError, ValueError for anything else."""
    points = item["values"] if "values" in item else [item["value"]]
    labels = {str(name): str(value) for name, value in item["metric"].items()}
    return Series(labels, [(round(float(at) * 1000), float(value)) for at, value in points])
