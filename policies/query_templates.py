"""The PromQL of an SLO document's own counts, read once: where models and versions go in, and how it is counted.

Rules:
- `{{model}}` and `{{version}}` stand inside the text of a `=~` matcher, both in one selector at least: one query asks
  for all models at once, and the answer's labels `model` and `version` tell them apart.
- `{{window}}` is the time that is counted over: `[{{window}}]`.
- A selector of counters, alone or as `increase(SELECTOR[{{window}}])`, also within `sum by (model, version) (...)`, is
  counted exactly: its raw samples are read. Anything else is an expression: Prometheus evaluates it once per bin.
- What an environment's series all have (`prometheus.labels`) is added to each selector that names models or versions.
- Nothing here is a parser of PromQL: what is wrong beyond the above, Prometheus says.

This module must not know who is asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from enum import StrEnum
from typing import TypeAlias

from policies.errors import BadInput
from policies.evidence import Queries


class Blank(StrEnum):
    """What is filled in when a query is asked."""

    MODEL = "model"
    VERSION = "version"
    WINDOW = "window"
    LABELS = "labels"
    """The environment's own labels, as further matchers."""


@dataclasses.dataclass(frozen=True)
class Gap:
    """Where something is filled in; `quote` is the quote of the text around it."""

    blank: Blank
    quote: str = ""


Parts: TypeAlias = tuple[str | Gap, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """One query of a document."""

    whole: Parts
    """As it is written."""
    counters: Parts = ()
    """The selector of counters in it; empty where it is an expression."""
    windowed: bool = False
    """It says `{{window}}`."""
    labels: frozenset[str] = frozenset()
    """Labels that its selectors match."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """The two queries of a ratio."""

    total: Template
    part: Template
    part_is_good: bool
    """The other count is that of good events; otherwise of bad ones."""

    @property
    def exact(self) -> bool:
        """Both are counters, whose samples are read."""
        return bool(self.total.counters and self.part.counters)

    @property
    def of_buckets(self) -> bool:
        """The part is a bucket of a histogram: where a process has none, nothing is known of it."""
        return self.exact and "le" in self.part.labels


EXAMPLE = 'model=~"{{model}}",version=~"{{version}}"'

_STRING = r"""(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)"""
_MATCHER = rf"\s*[a-zA-Z_]\w*\s*(?:=~|!~|!=|=)\s*{_STRING}\s*"
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SELECTOR = rf"(?:{_NAME}\s*)?\{{(?:{_MATCHER}(?:,{_MATCHER})*)?,?\s*\}}"
_HOLE = r"\{\{\s*(?P<what>[^{}]*?)\s*\}\}"
_PIECE = re.compile(rf"(?P<selector>{_SELECTOR})|(?P<string>{_STRING})|(?P<comment>\#[^\n]*)|{_HOLE}")
_ONE_MATCHER = re.compile(rf"(?P<label>[a-zA-Z_]\w*)\s*(?P<how>=~|!~|!=|=)\s*(?P<text>{_STRING})")
_BLANKS = re.compile(_HOLE)
_INCREASE = rf"increase\s*\(\s*(?P<selector>{_SELECTOR})\s*\[\s*\{{\{{\s*window\s*\}}\}}\s*\]\s*\)"
_BY = r"by\s*\((?P<by>[\w\s,]*)\)"
_EXACT = tuple(
    re.compile(rf"\s*{form}\s*")
    for form in (
        rf"(?P<selector>{_SELECTOR})",
        _INCREASE,
        rf"sum\s*{_BY}\s*\(\s*{_INCREASE}\s*\)",
        rf"sum\s*\(\s*{_INCREASE}\s*\)\s*{_BY}",
    )
)
_PER_SECOND = re.compile(r"\bi?rate\s*\(")


# --- one query ------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def read_template(query: str) -> Template:
    """The query of a document. Raises BadInput with what would be right."""
    text = re.sub(_PIECE, lambda found: "" if found["comment"] else found[0], query).strip()
    if not text:
        raise BadInput("is empty: write a query that counts events")
    whole, labels = _parts(text)
    for form in _EXACT:
        if found := form.fullmatch(text):
            _check_grouped(found.groupdict().get("by"))
            counters, _ = _parts(found["selector"])
            _check_counters(found["selector"], labels)
            return Template(whole=whole, counters=counters, windowed=_asks(whole, Blank.WINDOW), labels=labels)
    _check_expression(text, whole)
    return Template(whole=whole, windowed=True, labels=labels)


def _parts(text: str) -> tuple[Parts, frozenset[str]]:
    """The text with its gaps, and the labels that it matches. Raises BadInput."""
    parts: list[str | Gap] = []
    labels: set[str] = set()
    done, complete = 0, False
    for piece in _PIECE.finditer(text):
        parts.append(_plain(text[done : piece.start()]))
        done = piece.end()
        if piece["selector"] is not None:
            within, names, both = _selector_parts(piece["selector"])
            parts += within
            labels |= names
            complete = complete or both
        elif piece["string"] is not None:
            if _BLANKS.search(piece[0]):
                raise BadInput(f"{piece[0]} is no matcher: {{{{model}}}} and {{{{version}}}} stand in one, {EXAMPLE}")
            parts.append(piece[0])
        else:
            parts.append(_window(piece["what"], text[: piece.start()]))
    parts.append(_plain(text[done:]))
    if not complete:
        raise BadInput(
            f"does not say whose events are counted: write {EXAMPLE} inside the braces of its selector; the series "
            "must have both labels"
        )
    return tuple(part for part in parts if part != ""), frozenset(labels)


def _plain(text: str) -> str:
    if any(quote in text for quote in "\"'`"):
        raise BadInput("a quote in it is not closed")
    if "{" in text or "}" in text:
        raise BadInput(f"what stands in braces should be matchers like {EXAMPLE}")
    return text


def _window(what: str, before: str) -> Gap:
    if what == Blank.WINDOW and before.rstrip().endswith("["):
        return Gap(Blank.WINDOW)
    if what == Blank.WINDOW:
        raise BadInput("{{window}} stands in brackets: [{{window}}]")
    if what in (Blank.MODEL, Blank.VERSION):
        raise BadInput(f'{{{{{what}}}}} stands in quotes: {what}=~"{{{{{what}}}}}"')
    raise BadInput(_unknown(what))


def _unknown(what: str) -> str:
    return f"{{{{{what[:20]}}}}} is not known here; known are {{{{model}}}}, {{{{version}}}} and {{{{window}}}}"


def _selector_parts(selector: str) -> tuple[list[str | Gap], set[str], bool]:
    """A selector's parts, the labels that it matches, and whether it has both gaps."""
    parts: list[str | Gap] = []
    found: set[Blank] = set()
    labels: set[str] = set()
    done = 0
    for matcher in _ONE_MATCHER.finditer(selector):
        labels.add(matcher["label"])
        quote = matcher["text"][0]
        for blank in _BLANKS.finditer(matcher["text"]):
            what = _in_matcher(blank["what"], matcher)
            start = matcher.start("text") + blank.start()
            parts += [selector[done:start], Gap(what, quote)]
            done = matcher.start("text") + blank.end()
            found.add(what)
    rest = selector[done:]
    if not found:
        return [rest], labels, False
    return [*parts, rest[:-1].rstrip(", \n\t"), Gap(Blank.LABELS), "}"], labels, len(found) > 1


def _in_matcher(what: str, matcher: re.Match[str]) -> Blank:
    if what not in (Blank.MODEL, Blank.VERSION):
        raise BadInput("{{window}} stands in brackets: [{{window}}]" if what == Blank.WINDOW else _unknown(what))
    if matcher["how"] != "=~":
        right = f"{matcher['label']}=~{matcher['text']}"
        raise BadInput(f"{matcher[0]}: one query asks for several models and versions, write {right}")
    return Blank(what)


def _asks(parts: Parts, blank: Blank) -> bool:
    return any(isinstance(part, Gap) and part.blank is blank for part in parts)


def _check_grouped(by: str | None) -> None:
    if by is not None and not {"model", "version"} <= {name.strip() for name in by.split(",")}:
        raise BadInput("adds models or versions up: write sum by (model, version) (...)")


def _check_counters(selector: str, labels: frozenset[str]) -> None:
    for matcher in _ONE_MATCHER.finditer(selector):
        for blank in _BLANKS.finditer(matcher["text"]):
            what = blank["what"]
            if matcher["label"] != what or matcher["text"][1:-1] != blank[0]:
                raise BadInput(
                    f'{matcher[0]} should be {what}=~"{{{{{what}}}}}": these labels tell what a series counts; '
                    "rename them where it is scraped"
                )
    if selector.partition("{")[0].strip().endswith("_bucket") and "le" not in labels:
        raise BadInput(
            "the buckets of a histogram hold each other: name one by le, count with _count, or write a thresholdMetric"
        )


def _check_expression(text: str, whole: Parts) -> None:
    bare = _PIECE.sub("", text)
    if _PER_SECOND.search(bare):
        raise BadInput("a rate is per second and no count: write increase(...[{{window}}])")
    if not _asks(whole, Blank.WINDOW):
        raise BadInput(
            "does not say over what time it counts: write the counters alone, as name{...}, or "
            "sum by (model, version) (increase(name{...}[{{window}}]))"
        )


# --- pairs ----------------------------------------------------------------------------------------------------


def read_pair(queries: Queries) -> Pair:
    """Both counts of a document. Raises BadInput where they cannot be counted alike."""
    total, part = read_template(queries.total), read_template(queries.good or queries.bad)
    pair = Pair(total=total, part=part, part_is_good=bool(queries.good))
    other = "good" if queries.good else "bad"
    if not pair.exact and not (total.windowed and part.windowed):
        bare = other if total.windowed else "total"
        raise BadInput(
            f"one count is an expression and the other is not: write {bare} as "
            "sum by (model, version) (increase(...[{{window}}])), too"
        )
    return pair


def bucket_pair(query: str, edge: float, *, within_is_good: bool) -> Queries:
    """The observations of a classic histogram that are at most `edge`, of all: the query selects its buckets.

    Raises BadInput where the query is no selector of buckets.
    """
    selector = query.strip()
    if not re.fullmatch(_SELECTOR, selector) or not selector.partition("{")[0].strip().endswith("_bucket"):
        raise BadInput(
            "a value over time (a quantile, a mean) counts no events, so nobody knows how much evidence it is: write "
            f"the buckets of a histogram, name_bucket{{{EXAMPLE}}}, of which value is an edge, or a ratioMetric"
        )
    if any(matcher["label"] == "le" for matcher in _ONE_MATCHER.finditer(selector)):
        raise BadInput("leave le out of a thresholdMetric's query: value names the bucket")
    inside = selector[:-1].rstrip(", \n\t")
    separator = "" if inside.endswith("{") else ","
    written = "|".join(re.sub(r"([.+])", r"[\1]", text) for text in bucket_labels(edge))
    total, within = (f"{inside}{separator}le{match}}}" for match in ('="+Inf"', f'=~"{written}"'))
    return Queries(total=total, good=within) if within_is_good else Queries(total=total, bad=within)


def bucket_labels(edge: float) -> tuple[str, ...]:
    """How exporters write a bucket's upper edge: Ray `200.0`, Go clients `200` and `1e+06`."""
    plain = (str(int(edge)),) if edge.is_integer() else ()
    return tuple(dict.fromkeys((*plain, repr(edge), f"{edge:g}")))
