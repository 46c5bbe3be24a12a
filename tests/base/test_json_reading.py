"""JSON with what Python's own parser lets through, or answers with errors of several classes."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import MAX_DIGITS, MAX_NESTING, MalformedText, parse_json
from ms_codegeex.base.reading import read_json

DEEP = "[" * (MAX_NESTING + 1) + "]" * (MAX_NESTING + 1)
BAD = [
    ('{"n": ' + "1" * 5001 + "}", "a number of more than 100 digits"),
    ("-" + "1" * MAX_DIGITS, "a number of more than 100 digits"),
    ("[" * 1_000_000, "nested deeper than 100 levels"),
    ('{"a":' * 100_000, "nested deeper than 100 levels"),
    (DEEP, "nested deeper than 100 levels"),
    ('{"a": 1, "b": 2, "a": 3}', "key 'a' occurs twice in an object"),
    ('{"a": {"b": 1, "b": 1}}', "key 'b' occurs twice"),
    ('{"a": "\\ud83d"}', "half a character"),
    ('{"\\uDC00": 1}', "half a character"),
    ('["\\ud83d\\ud83d\\ude00"]', "half a character"),
    ("\ufeff{}", "begins with a byte-order mark"),
    ("", "Expecting value at column 1"),
    ("{}\n\n x", "Extra data at line 3 column 2"),
    ("{'a': 1}", "Expecting property name"),
    ("[1,]", "at column"),
    ('"\x00"', "Invalid control character"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=range(len(BAD)))
def test_what_is_refused(tmp_path, text, message):
    for form in (text, text.encode()):
        with pytest.raises(MalformedText, match=message):
            parse_json(form)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"config.json: not readable as JSON \\(.*{message}"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00}\x00", b'{"a": "\xed\xa0\x80"}', b'"caf\xe9"'])
def test_other_encodings_are_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config.json: not readable as JSON \(not UTF-8, byte 0x"):
        read_json(tmp_path / "config.json")


def test_what_is_read_is_what_python_reads():
    limit = "[" * MAX_NESTING + "]" * MAX_NESTING
    texts = [limit, "9" * MAX_DIGITS, '{"\\ud83d\\ude00": [1, -2.5e3, null, true, "caf\u00e9 \\u0000"]}', " 1 ", "NaN"]
    for text in texts:
        assert repr(parse_json(text)) == repr(parse_json(text.encode())) == repr(json.loads(text))


def test_records_of_a_users_data_may_have_keys_twice_and_half_characters():
    assert parse_json('{"a": 1, "a": "\\ud83d"}', data=True) == {"a": "\ud83d"}
    for text in ("1" * 200, DEEP):
        with pytest.raises(MalformedText):
            parse_json(text, data=True)


EXACT = [
    '{"n": 123456789012345678901234567890, "m": -0, "f": -0.0, "e": 1E400, "s": 5e-324, "i": [NaN, -Infinity]}',
    '{"a": "\\ud83d\\ude00 \\u0000 \\/ \x7f", "b": 1, "b": [[], {"c": 9007199254740993}]}',
    '{"a": "\\ud83d", "b": "\\ude00x"}',
    '{"a": ' + "[" * (MAX_NESTING - 1) + "]" * (MAX_NESTING - 1) + "}",
    '{"n": ' + "9" * MAX_DIGITS + "}",
    " [1.5, true, null]\r",
    "9" * 50,
]
REFUSED = [
    '{"a": ' + "[" * MAX_NESTING + "]" * MAX_NESTING + "}",
    '{"n": [{"m": ' + "9" * (MAX_DIGITS + 1) + "}]}",
    '{"n": -' + "9" * MAX_DIGITS + "}",
    *(
        '{"a": 01}',
        '{"a": 1.}',
        '{"a": "\t"}',
        "{} {}",
        "\ufeff{}",
        "",
        "nan",
        '{"a": "\\x"}',
        "{}\0",
        "[1,]",
        "\x0b{}",
    ),
]


@pytest.mark.parametrize("text", EXACT, ids=range(len(EXACT)))
def test_bytes_of_a_record_give_the_value_of_its_text(text):
    assert repr(parse_json(text.encode(), data=True)) == repr(parse_json(text, data=True)) == repr(json.loads(text))


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_bytes_of_a_record_are_refused_as_its_text_is(text):
    with pytest.raises(MalformedText) as of_text:
        parse_json(text, data=True)
    with pytest.raises(MalformedText, match=re.escape(str(of_text.value))):
        parse_json(text.encode(), data=True)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(10**98), 10**99) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=9,
)


@settings(max_examples=100)
@given(JSON_VALUES, st.booleans())
def test_any_record_is_read_as_python_reads_it(value, escaped):
    text = json.dumps(value, ensure_ascii=escaped)
    assert repr(parse_json(text.encode(), data=True)) == repr(json.loads(text))


def test_only_a_regular_file_of_a_sane_size_is_read(tmp_path):
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"zero\.json: is a device"):
        read_json(tmp_path / "zero.json")
    with open(tmp_path / "sparse.json", "wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(UserError, match=r"sparse\.json: is larger than 67,108,864 bytes"):
        read_json(tmp_path / "sparse.json")
    with pytest.raises(UserError, match="is a directory"):
        read_json(tmp_path)
