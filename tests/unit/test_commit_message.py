from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.commit_message import BODY_LINES_LIMIT, SUBJECT_LIMIT, VALUE_LIMIT, message, one_line, trailers_of

TRAILERS = {"Sluice-Model": "fraud", "Sluice-Verdict": "PASS"}


def test_a_message_has_subject_body_and_trailers() -> None:
    text = message("fraud: canary 10 %", "errors 1 of 1,204\n\nlatency fine", TRAILERS)
    assert text == (
        "fraud: canary 10 %\n\nerrors 1 of 1,204\n\nlatency fine\n\nSluice-Model: fraud\nSluice-Verdict: PASS\n"
    )
    assert trailers_of(text) == TRAILERS


def test_a_subject_alone_is_a_message() -> None:
    assert message("Start") == "Start\n"
    assert trailers_of("Start\n") == {}
    assert trailers_of("fraud: canary 10 %\n") == {}


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("a\nSluice-Verdict: PASS", "a Sluice-Verdict: PASS"),
        ("a\r\n\tb\x00\x1b[31mc", "a b [31mc"),
        ("a\u2028b\u0085c\u00a0d", "a b c d"),
        ("abc\u202egnp.exe", "abcgnp.exe"),
        ("half \ud800 pair", "half pair"),
        ("  Größe 模型 🦆 ", "Größe 模型 🦆"),
    ],
)
def test_a_strangers_name_stays_on_one_printable_line(given_text: str, shown: str) -> None:
    assert message(given_text) == f"{shown}\n"
    assert trailers_of(message("x", trailers={"Sluice-Model": given_text})) == {"Sluice-Model": shown}


def test_a_body_cannot_forge_a_trailer() -> None:
    forged = "fine\n\nSluice-Verdict: PASS\nSigned-off-by: Ada <a@b>"
    assert trailers_of(message("x", forged)) == {}
    assert trailers_of(message("x", forged, TRAILERS)) == TRAILERS


def test_long_things_are_cut() -> None:
    subject, body, trailer = message("s" * 500, "b\n" * 500, {"K": "v" * 1000}).split("\n\n")
    assert (len(subject), subject[-1]) == (SUBJECT_LIMIT, "…")
    assert len(body.split("\n")) == BODY_LINES_LIMIT
    assert len(trailer.strip()) == len("K: ") + VALUE_LIMIT


@pytest.mark.parametrize(
    ("subject", "trailers"),
    [("", {}), (" \n", {}), ("x", {"a b": "c"}), ("x", {"a:": "c"}), ("x", {"": "c"}), ("x", {"K": " \n"})],
)
def test_mistakes_of_the_caller_are_errors(subject: str, trailers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"needs|key"):
        message(subject, trailers=trailers)


texts = st.text(max_size=200)
keys = st.from_regex(r"[A-Z][A-Za-z0-9-]{0,20}", fullmatch=True)


@given(subject=texts.filter(one_line), body=texts, trailers=st.dictionaries(keys, texts.filter(one_line), max_size=4))
def test_only_what_is_given_as_a_trailer_reads_back_as_one(subject: str, body: str, trailers: dict[str, str]) -> None:
    text = message(subject, body, trailers)
    assert trailers_of(text) == {key: one_line(value) for key, value in trailers.items()}
    assert text.split("\n")[0] == one_line(subject, SUBJECT_LIMIT)
    assert text == message(subject, body, trailers)


@pytest.mark.real
@pytest.mark.parametrize(
    ("body", "trailers"),
    [
        ("", TRAILERS),
        ("errors: 31 of 1,204\nSluice-Verdict: FAIL", TRAILERS),
        ("a\n\nSluice-Verdict: PASS", {}),
        ("Signed-off-by: Ada <a@b>\n(cherry picked from commit 1)\nSluice-Verdict: PASS", {}),
        ("---\nSluice-Verdict: PASS\n# no comment", TRAILERS),
    ],
)
def test_git_reads_the_same_trailers(tmp_path: Path, body: str, trailers: dict[str, str]) -> None:
    parsing = ["git", "interpret-trailers", "--parse", "--no-divider"]
    text = message("subject: is none", body, trailers).encode()
    parsed = subprocess.run(parsing, input=text, cwd=tmp_path, capture_output=True, check=True).stdout.decode()
    wanted = "".join(f"{key}: {value}\n" for key, value in trailers.items())
    assert parsed == wanted
