"""What is an order to a terminal is written out; what belongs to the spelling of a language stays."""

from __future__ import annotations

import json
import pickle
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.errors import FittestError
from fittest.evo.visible import visible, visible_json

ORDERS = {
    "an escape that writes to the clipboard": ("\x1b]52;c;cm0gLXJm\x07", r"\x1b]52;c;cm0gLXJm\x07"),
    "an escape that clears the screen": ("\x1b[2J", r"\x1b[2J"),
    "a C1 control": ("\x9b2J", r"\x9b2J"),
    "a line break": ("fine\nfittest: all is well", r"fine\nfittest: all is well"),
    "a carriage return": ("fine\rgone", r"fine\rgone"),
    "a right-to-left override": ("\u202etxt.exe", r"\u202etxt.exe"),
    "a bidi isolate": ("a\u2066b\u2069", r"a\u2066b\u2069"),
    "a zero-width space": ("a\u200bb", r"a\u200bb"),
    "a joiner between Latin letters": ("a\u200db", r"a\u200db"),
    "two joiners": ("\u0645\u200c\u200c\u06cc", "\u0645" + r"\u200c\u200c" + "\u06cc"),
    "a line separator": ("a\u2028b\u2029", r"a\u2028b\u2029"),
    "a tag": ("a\U000e0041", r"a\U000e0041"),
    "a byte-order mark": ("\ufeffa", r"\ufeffa"),
    "half a surrogate": ("a\ud800", r"a\ud800"),
    "a filler without a shape": ("a\u3164b", r"a\u3164b"),
    "a selector upon a letter": ("a\ufe00\U000e0100", r"a\ufe00\U000e0100"),
}

SIGNS = [
    "می‌خواهم",  # ZWNJ between two letters of one word
    "ක්‍ෂ",  # ZWJ makes a ligature
    "👩‍👩‍👧‍👦 and ❤️ and 👍🏽 and 1️⃣",
    "\u0661\u0660\u0600\u0661",  # a sign of numbers that is a format
    "葛\U000e0100飾",  # a variant of a Chinese character
    "שָׁלוֹם",
    "Tiếng Việt, ภาษาไทย, 한국어, Ελληνικά, русский, 中文, Yorùbá",
    "plain (ASCII) text with \\backslashes\\ and 100 %",
]


@pytest.mark.parametrize(("text", "shown"), ORDERS.values(), ids=ORDERS.keys())
def test_an_order_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("text", SIGNS)
def test_ordinary_text_of_any_language_stays(text: str) -> None:
    assert visible(text) == text


def test_each_control_and_format_of_unicode_is_written_out_alone() -> None:
    signs = map(chr, range(sys.maxunicode + 1))
    obeyed = [sign for sign in signs if unicodedata.category(sign) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    raw = [sign for sign in obeyed if sign in visible(f"a{sign}b")]
    # these have a shape
    assert all("ARABIC" in (name := unicodedata.name(sign)) or "SYRIAC" in name or "KAITHI" in name for sign in raw)
    assert len(raw) < 20 < len(obeyed)


def test_a_tower_of_marks_is_cut_at_a_height_that_languages_reach() -> None:
    assert visible("a" + "\u0301" * 8) == "a" + "\u0301" * 8
    assert visible("a" + "\u0301" * 9) == "a" + "\u0301" * 8 + r"\u0301"


@given(st.text())
def test_what_was_written_out_stays_as_it_is(text: str) -> None:
    assert visible(visible(text)) == visible(text)


def test_an_error_repeats_nothing_that_a_terminal_would_obey() -> None:
    error = FittestError("http://host: 400: \x1b[2J\nfittest: all is well")
    assert str(error) == r"http://host: 400: \x1b[2J\nfittest: all is well"
    assert str(FittestError(ValueError("no\nsuch file"))) == r"no\nsuch file"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@given(st.dictionaries(st.text(), st.text() | st.integers()))
def test_json_is_written_without_orders_and_means_the_same(content: dict[str, object]) -> None:
    for indent in (None, 2):
        written = visible_json(json.dumps(content, ensure_ascii=False, indent=indent))
        assert json.loads(written) == content
        assert not [sign for sign in written if unicodedata.category(sign)[0] == "C" and visible(sign) != sign != "\n"]
        assert not set(written) & {"\u2028", "\u202e", "\x9b", "\U000e0041"}
