"""Every message that docs/faq.md quotes is one of the source, up to its placeholders."""

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest
from checkout import ROOT

FAQ_FILE = ROOT / "docs/faq.md"
MESSAGES = re.findall(r"```text\n(.*?)\n```", FAQ_FILE.read_text("utf-8"), flags=re.DOTALL)
NUM_MESSAGES = 20
MIN_FIXED_CHARACTERS = 10  # a shorter text, such as "{name}: {problem}", matches any message
MIN_COVERAGE = 0.4  # of a message by fixed texts of the source; the rest are values


def string_texts(node: ast.AST) -> Iterator[list[str]]:
    """For each string and f-string below a node: the texts between its placeholders."""
    if isinstance(node, ast.JoinedStr):
        texts = [str(value.value) for value in node.values if isinstance(value, ast.Constant)]
        yield [line for text in texts for line in text.split("\n") if line]
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield [node.value]
    for child in ast.iter_child_nodes(node):
        yield from string_texts(child)


@cache
def source_messages() -> list[list[str]]:
    """The fixed texts of each message in the package."""
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "partloc").rglob("*.py")]
    messages = [texts for tree in trees for texts in string_texts(tree)]
    return [texts for texts in messages if sum(map(len, texts)) >= MIN_FIXED_CHARACTERS]


def coverage(message: str) -> float:
    """The fraction of a message that fixed texts of the source cover, each in its order."""
    covered: set[int] = set()
    for texts in source_messages():
        if not all(text in message for text in texts):
            continue
        match = re.search(".+?".join(f"({re.escape(text)})" for text in texts), message)
        for group in range(1, len(texts) + 1 if match else 0):
            covered |= {*range(*match.span(group))}
    return len(covered) / len(message)


def test_the_faq_has_twenty_numbered_messages():
    numbers = re.findall(r"^### (\d+)\. ", FAQ_FILE.read_text("utf-8"), flags=re.MULTILINE)
    assert [*map(int, numbers)] == [*range(1, NUM_MESSAGES + 1)]
    assert len(MESSAGES) == NUM_MESSAGES


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_one_of_the_source(message):
    assert coverage(message) > MIN_COVERAGE


def test_a_message_in_other_words_is_not_one_of_the_source():
    for message in MESSAGES[:4]:
        assert coverage(" ".join(message.split(" ")[::2])) < MIN_COVERAGE
