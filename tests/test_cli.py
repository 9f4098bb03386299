"""What all commands share: output in any encoding, signals, and workers that end with them."""

import io
import json
import sys

import pytest

from partloc.cli import print_json


@pytest.mark.parametrize(
    ("encoding", "text", "is_escaped"),
    [
        ("ascii", "Stühle", True),
        ("utf-8", "Stühle", False),
        ("utf-8", "not UTF-8: \udcff", True),
        ("latin-1", "椅子", True),
        ("utf-16", "Stühle", False),
    ],
)
def test_printed_json_can_be_read_in_every_encoding(monkeypatch, encoding, text, is_escaped):
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding=encoding))
    print_json([{"part": text}])
    sys.stdout.flush()
    line = stream.getvalue().decode(encoding)
    assert json.loads(line) == [{"part": text}] and line.endswith("\n")
    assert ("\\u" in line) == is_escaped
