"""What doors do with errors: one shape for each protocol."""

from __future__ import annotations

import json

from serving_runtime.exchange import spoken
from serving_runtime.protocol import JSON, Answer, CallKind, error_answer


def test_an_error_in_plain_text_becomes_one_of_the_protocol() -> None:
    plain = Answer(415, b"Only JSON\xff.", "text/plain", (("x-a", "b"),))
    told = {kind: spoken(plain, kind) for kind in CallKind}
    assert {(each.status, each.content_type, each.headers) for each in told.values()} == {(415, JSON, plain.headers)}
    assert json.loads(told[CallKind.INVOCATIONS].body) == {"error_code": "BAD_REQUEST", "message": "Only JSON\ufffd."}
    assert json.loads(told[CallKind.INFER].body) == {"error": "Only JSON\ufffd."}


def test_an_error_in_json_keeps_its_words_and_a_good_answer_everything() -> None:
    wrong, good = error_answer(400, "BAD_REQUEST", "No."), Answer(200, b"1\n", "text/plain")
    assert spoken(wrong, CallKind.INVOCATIONS) == wrong
    assert json.loads(spoken(wrong, CallKind.INFER).body) == {"error": "No."}
    assert [spoken(good, kind) for kind in CallKind] == [good, good]
