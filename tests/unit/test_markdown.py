"""Texts of strangers in a comment: shown, and obeyed by nobody."""

from __future__ import annotations

import pytest

from policies.markdown import JOINER, code, fenced, prose, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b", r"a \| b"),
        ("<img src=x onerror=alert(1)>", r"\<img src=x onerror=alert(1)\>"),
        ("[click](http://evil)", rf"\[click\](http:{JOINER}//evil)"),
        ("![x](http://evil)", rf"!{JOINER}\[x\](http:{JOINER}//evil)"),
        ("ask @ada", f"ask @{JOINER}ada"),
        ("see #12 and GH-7 and !3", f"see #{JOINER}12 and GH{JOINER}-7 and !{JOINER}3"),
        ("www.evil.example", f"www{JOINER}.evil.example"),
        ("# heading", r"\# heading"),
        ("1. item", r"1\. item"),
        ("- item", r"\- item"),
        ("`tick` *bold* _it_ ~no~", rf"\`tick\` \*bold\* \_it\_ \~{JOINER}no\~"),
        ("max_replicas stays", "max_replicas stays"),
        ("two\nlines\r\nand\u2028three", "two lines and three"),
        ("right\u202eleft \x1b[31m", r"right\\u202eleft \[31m"),
        ("&lt;", rf"\&{JOINER}lt;"),
        ("at 10 %, not 50 %.", "at 10 %, not 50 %."),
        ("$x$", rf"\${JOINER}x\$"),
    ],
)
def test_prose_does_nothing(text: str, shown: str) -> None:
    assert prose(text) == shown


def test_prose_is_cut_and_says_so() -> None:
    assert prose("x" * 500, 10) == "xxxxxxxxx…"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("models/fraud.yaml", "`models/fraud.yaml`"),
        ("a`b", "``a`b``"),
        ("`a", "`` `a ``"),
        ("a|b", r"`a\|b`"),
        ("a\\|b", r"`a\ \|b`"),
        ("a\nb", "`a b`"),
        ("", ""),
    ],
)
def test_a_code_span_cannot_be_left(text: str, shown: str) -> None:
    assert code(text) == shown


def test_a_cell_ends_where_it_should() -> None:
    lines = table(("a", "b"), [(code("x|y"), prose("p|q"))])
    assert lines == ["| a | b |", "| --- | --- |", r"| `x\|y` | p\|q |"]


def test_no_line_ends_a_block() -> None:
    lines = fenced(["+ a", "```", "````x", "\x1b[0m"], "diff")
    assert lines[0] == "`````diff"
    assert lines[-1] == "`````"
    assert lines[4] == " [0m"
