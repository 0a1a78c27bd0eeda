"""A key that a server repeats in any form is hidden, and no ordinary text is."""

from __future__ import annotations

import base64
import html
import json
import random
import re
import string
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.hiding import HIDDEN, Keys, holds_key, is_no_name, without_keys

KEY = "sk-proj-Zq8vT2mXw9LkR4nB7cYd/3+HsJ6gF1"

ECHOES = {
    "whole": KEY,
    "in upper case": KEY.upper(),
    "in lower case": KEY.lower(),
    "in two pieces": f"{KEY[:16]} and then {KEY[16:]}",
    "in lines": "\n".join(KEY[place : place + 4] for place in range(0, len(KEY), 4)),
    "in letters": " ".join(KEY),
    "with zero-width spaces": "\u200b".join(KEY),
    "in JSON pieces": json.dumps([KEY[:12], KEY[12:24], KEY[24:]]),
    "escaped in JSON": "".join(f"\\u{ord(sign):04x}" for sign in KEY),
    "with escaped slashes": KEY.replace("/", "\\/"),
    "in a URL": quote(KEY, safe=""),
    "in a URL wholly": "".join(f"%{ord(sign):02X}" for sign in KEY),
    "in HTML": "".join(f"&#{ord(sign)};" for sign in KEY),
    "in HTML, hexadecimal": "".join(f"&#x{ord(sign):x};" for sign in KEY),
    "in bytes of Python": "".join(f"\\x{ord(sign):02x}" for sign in KEY),
    "hexadecimal": KEY.encode().hex(),
    "in entities": html.escape(KEY),
    **{
        f"base64 after {before} bytes": base64.b64encode(b"u" * before + KEY.encode() + b"tail").decode()
        for before in range(7)
    },
    "base64 of URLs": base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("="),
    "base64 with line breaks": re.sub("(.{9})", "\\1\n", base64.b64encode(KEY.encode()).decode()),
    "the beginning": KEY[:14],
    "the end": KEY[-14:],
    "twice": f"{KEY} {KEY}",
}  # fmt: skip


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
def test_an_echo_is_hidden(echo: str) -> None:
    shown = Keys([KEY]).hidden_in(f"You sent: {echo}. Try again.")
    assert HIDDEN in shown
    assert shown.startswith("You sent: ")
    assert shown.endswith("Try again.")
    kept = shown.replace(HIDDEN, " ")
    for width in range(11, len(echo) + 1):
        assert not any(echo[at : at + width] in kept for at in range(len(echo) - width + 1))


@pytest.mark.parametrize(
    "text",
    [
        "An ordinary answer about projects, keys and secret things.",
        "sk-proj- is how keys begin; yours is sk-…gF1",
        "مرحبا 你好 👩‍👩‍👧‍👦 \ud800",
        "",
        "the local key is not needed: not needed, empty, none",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert Keys([KEY, "EMPTY", "not-needed-here", "local-key", "sk-no-key-required"]).hidden_in(text) == text


def test_a_key_made_of_words_is_hidden_where_it_stands() -> None:
    keys = Keys(["not-needed", "my-development-server-key"])
    assert keys.hidden_in("not-needed, NOT-NEEDED") == f"{HIDDEN}, {HIDDEN}"
    assert keys.hidden_in("not needed; a development of the development server") == (
        "not needed; a development of the development server"
    )
    assert HIDDEN in keys.hidden_in(base64.b64encode(b"Bearer my-development-server-key").decode())


def test_a_short_key_hides_no_words_but_itself() -> None:
    keys = Keys(["EMPTY", "a", "42"])
    assert keys.hidden_in("EMPTY and a 42") == "EMPTY and a 42"
    assert keys.hidden_in_words("a bad key EMPTY in EMPTYING 42") == f"a bad key {HIDDEN} in EMPTYING 42"


def test_random_keys_are_hidden_in_all_their_forms() -> None:
    draw = random.Random(5)
    for length in (8, 12, 16, 24, 40, 64, 164):
        for _ in range(40):
            key = "".join(draw.choices(string.ascii_letters + string.digits + "-_/+=.", k=length - 3)) + "a1B"
            keys = Keys([key])
            forms = [key, key.upper(), quote(key, safe=""), key.encode().hex()]
            if length >= 12:
                forms += [base64.b64encode(b"u" * at + key.encode()).decode() for at in range(3)]
            for form in forms:
                assert HIDDEN in keys.hidden_in(f"<{form}>"), (key, form)
                assert len(keys.hidden_in(f"<{form}>").replace(HIDDEN, "")) < 12, (key, form)


@given(st.text())
def test_any_text_can_be_looked_at(text: str) -> None:
    assert Keys([KEY]).hidden_in(text) == text
    assert KEY not in Keys([KEY]).hidden_in(f"{text}{KEY}{text}")


@pytest.mark.parametrize(
    "text",
    [
        "sk-ant-api03-Zq8vT2mXw9LkR4nB7cYd", "hf_ZqTmXwLkRnBcYdHsJgFaEeUuOo", "gsk_Zq8vT2mXw9LkR4nB7cYd3HsJ",
        "ghp_Zq8vT2mXw9LkR4nB7cYd3HsJ6gF1", "AKIAZQ8VT2MXW9LKR4NB", "AIzaZq8vT2mXw9LkR4nB7cYd3HsJ6gF1aaa",
        "Authorization: Bearer Zq8vT2mXw9LkR4nB7cYd", "--api-key=sk-Zq8vT2mXw9LkR4nB7cYd",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc",
    ],
)  # fmt: skip
def test_a_key_of_a_known_service_is_recognised(text: str) -> None:
    assert holds_key(text)
    assert is_no_name(text)


@pytest.mark.parametrize(
    "text", ["OPENAI_API_KEY", "MY_KEY", "KEY2", "HF_TOKEN", "AZURE_OPENAI_API_KEY_EU_WEST_2", "K"]
)
def test_the_name_of_a_variable_is_a_name(text: str) -> None:
    assert not is_no_name(text)


@pytest.mark.parametrize(
    "text", ["a1b2c3d4e5f60718293a4b5c6d7e8f90", "Zq8vT2mXw9LkR4nB7cYd3HsJ6gF1", "hf_abcdefghijklmnopqrst"]
)
def test_a_key_in_place_of_a_name_is_recognised(text: str) -> None:
    assert is_no_name(text)


@pytest.mark.parametrize(
    "text", ["meta-llama/Llama-3.1-8B-Instruct", "sk-learn", "risk-adjusted-returns-of-funds", "task_0123"]
)
def test_a_model_or_a_word_is_no_key(text: str) -> None:
    assert not holds_key(text)


def test_a_variable_that_names_a_file_hides_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "experiments of the group" / "service-account-1.json"
    file.parent.mkdir()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    line = f"{file.parent / 'my-run'}: no such folder"
    assert without_keys(line) == line
    assert without_keys(str(file)) == str(file)


@pytest.mark.parametrize("key", ["/3HsJ6gF1Zq8vT2mXw9LkR4nB7cYd", "/Zq8vT2mXw9/LkR4nB7cYd3+HsJ6gF1"])
def test_a_key_that_begins_as_a_path_does_is_hidden(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", key)
    assert without_keys(f"You sent {key}.") in ("You sent [key].", "You sent /[key].")
