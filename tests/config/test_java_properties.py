"""`.properties` files are read as Java reads them."""

import pytest

from app.config.torchserve_properties import parse_properties


@pytest.mark.parametrize(
    "text, properties",
    [
        ("", {}),
        ("a=b", {"a": "b"}),
        ("a = b\nc: d\ne f", {"a": "b", "c": "d", "e": "f"}),
        ("  a\t=\tb c  ", {"a": "b c"}),
        ("a", {"a": ""}),
        ("a=b=c:d", {"a": "b=c:d"}),
        ("# no=1\n  ! no=2\n\n \nyes=#3", {"yes": "#3"}),
        ("a=1\r\nb=2\rc=3\n", {"a": "1", "b": "2", "c": "3"}),
        ("a=1\na=2", {"a": "2"}),
        ("a=one \\\n    two, \\\r\n\tthree", {"a": "one two, three"}),
        ("a=b\\\n# part of it", {"a": "b# part of it"}),
        ("# no \\\na=1", {"a": "1"}),
        ("a=ends with \\\\\nb=2", {"a": "ends with \\", "b": "2"}),
        ("a=b\\", {"a": "b"}),
        ("with\\ space\\=\\:=1", {"with space=:": "1"}),
        ("a=\\t\\u0041\\q\\\\n", {"a": "\tAq\\n"}),
        ("url=file://.*|http(s)?://.*", {"url": "file://.*|http(s)?://.*"}),
        ('models={\\\n  "m": {\\\n    "1.0": {"minWorkers": 1}}}', {"models": '{"m": {"1.0": {"minWorkers": 1}}}'}),
    ],
)
def test_text_is_read(text: str, properties: dict[str, str]) -> None:
    assert parse_properties(text) == properties


@pytest.mark.parametrize("text", ["a=\\u12", "a=\\u12G4", "\\u=b"])
def test_malformed_escape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no character"):
        parse_properties(text)
