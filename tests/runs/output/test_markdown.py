"""A card whose licences, sources and names are an attacker's has the structure of a card with harmless ones."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fittest.runs.output.atomic import write_json
from fittest.runs.output.card import data_card
from fittest.runs.output.export import export
from fittest.runs.output.hub_card import front_matter
from fittest.runs.output.markdown import code_block, markdown
from fittest.runs.output.survivors import read_survivors
from tests.runs.output.exported_run import frame, survivor, write_run

HOSTILE = [
    "x\n\n# A heading\n\n[a link](http://evil)\n\n<script>alert(1)</script>",
    "x | y | z\n| a | b |",
    "![image](http://evil/x.png) <img src=x onerror=alert(1)> &lt;b&gt;",
    "http://evil www.evil.example <http://evil> me@evil.example",
    "``` \n~~~ `code` **bold** _it_ $$x$$",
    "---\nlicense: mit\ntags: [a]\n---",
    "\x1b[2J\u202e\u2028<b>x</b>",
    "1. one", "- one", "+ one", "> quoted", "# heading", "===", "| x", "    indented", "\\", "a\\", "[x]: http://evil",
    "1.", "-", "=", "#", "*", "_", "`", "``", "`http://evil`", "http://evil|`", "'\"{}%: !!python/object:x",
]  # fmt: skip


def structure(card: str) -> list[str]:
    """The elements of a card, without their texts; code, escapes and texts are one text."""
    found: list[str] = []
    for token in MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(card):
        for one in token.children or [token]:
            kind = "text" if one.type in {"text", "text_special", "code_inline"} else one.type
            if kind != "text" or found[-1:] != ["text"]:
                found.append(f"{kind} {one.tag}".strip() if kind != "text" else kind)
    return found


def text_of(line: str) -> str:
    (inline,) = [token for token in MarkdownIt("gfm-like", {"linkify": False}).parse(line) if token.type == "inline"]
    return "".join(child.content for child in inline.children or [])


def card_with(folder: Path, value: str) -> str:
    """The card of a run in which every text that others write is the value."""
    survivors = frame(*(survivor(name, licence=value, source=value) for name in "abc"))
    write_run(folder, survivors)
    quoted = json.dumps(value)
    engine = f"kind = {quoted}\nmodel = {quoted}\nsystem = {quoted}\n"
    fingerprints = f"[fittest.fingerprints]\nengine = {quoted}\nreward = {quoted}\n"
    (folder / "run.toml").write_text(
        f"[engine]\n{engine}[proposer]\n{engine}[reward]\n{engine}{fingerprints}".replace("\\ud", "?")
    )
    write_json(folder / "summary.json", {"warnings": [value]})
    write_json(folder / "thresholds.json", {"reward_id": value, "policy": value})
    return data_card(folder, read_survivors(folder), [value], title=value)


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_changes_no_card(value: str, tmp_path: Path) -> None:
    assert structure(card_with(tmp_path / "a", value)) == structure(card_with(tmp_path / "b", "harmless"))


def test_the_card_of_an_export_is_as_safe(tmp_path: Path) -> None:
    run = tmp_path / "run"
    card_with(run, HOSTILE[0])
    result = export(run, to="trl-preference", out=tmp_path / "pairs](http://evil) <b>.jsonl")
    card = result.card.read_text(encoding="utf-8")
    assert not {"link_open a", "html_inline", "html_block", "image img"} & set(structure(card))
    assert structure(card).count("heading_open h1") == 1


@given(st.text(alphabet=st.sampled_from("`|\\*_[]<>&~$#-+=:.)1a/@!(){} \n\t\x1b\u202e") | st.characters()))
def test_any_text_stays_text(value: str) -> None:
    assume(value.strip())
    cell = f"| a |\n| --- |\n| {markdown(value)} |"
    item = f"- {markdown(value)}"
    assert structure(f"# x {markdown(value)}")[:2] == ["heading_open h1", "text"]
    assert [kind for kind in structure(cell) if kind != "text"] == [
        kind for kind in structure("| a |\n| --- |\n| b |") if kind != "text"
    ]
    assert [kind for kind in structure(item) if kind != "text"] == [k for k in structure("- b") if k != "text"]


@pytest.mark.parametrize("value", ["CC-BY-4.0", "max_tokens = 60; 80 % (of it)", "a.b/c, d", "Llama 3.1 “licence”"])
def test_an_ordinary_value_is_written_as_it_is(value: str) -> None:
    assert markdown(value) == value


@pytest.mark.parametrize("value", ["a*b*c", "<b>", "http://x/_y_|z", "`a`", "me@x", "1. one", "snake_ _case", "#"])
def test_a_reader_sees_the_value(value: str) -> None:
    seen = text_of(f"| a |\n| --- |\n| {markdown(value)} |".splitlines()[2].strip("| "))
    assert seen.replace("\\|", "|") == value


def test_nothing_ends_a_block_of_code() -> None:
    text = "a\n```\n# x\n````\n\x1b[2J"
    tokens = MarkdownIt().parse("\n".join(code_block(text)))
    assert [token.type for token in tokens] == ["fence"]
    assert tokens[0].content == text.replace("\x1b", r"\x1b") + "\n"


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_licence_adds_no_key_to_what_a_hub_reads(value: str) -> None:
    survivors = pl.DataFrame({"licence": [value, "mit"]})
    head = front_matter(survivors, {"pairs": ["a.parquet"]}, title=value, complete=True)
    before, matter, after = head.split("---\n", 2) if head.startswith("---\n") else ("?", "", "")
    known = yaml.safe_load(head.removeprefix("---\n").removesuffix("---\n"))
    assert (before, bool(matter), bool(after)) == ("", True, False) or "---" in value
    assert set(known) == {"license", "license_name", "pretty_name", "tags", "configs"}
    assert known["license"] == ["mit", "other"]
    assert known["tags"] == ["fittest", "synthetic"]
