"""What a pool file may look like, and what is said when it is not one."""

from __future__ import annotations

import gzip
import json
import socket
import sys
import types
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.errors import FittestError
from fittest.evo.pretrained.reachable import _answers
from fittest.runs.sources.pool import STARTER_POOL, read_pool
from fittest.runs.sources.pool_columns import is_midjourney_boilerplate, language_code

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
PROMPTS = ["How do tides work?", "Name a “blue” fruit,\nplease.", "Wie spät ist es?"]


def texts(path: Path | str, **options: object) -> list[str]:
    return [prompt.text for prompt in read_pool(path, **options).prompts]  # type: ignore[arg-type]


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path) -> None:
    pl.DataFrame({"prompt": PROMPTS}).write_parquet(path)


def write_jsonl(path: Path) -> None:
    jsonl(path, *({"prompt": text} for text in PROMPTS))


def write_array(path: Path) -> None:
    path.write_text(json.dumps([{"prompt": text} for text in PROMPTS], indent=2))


def write_csv(path: Path) -> None:
    pl.DataFrame({"prompt": PROMPTS}).write_csv(path)


def write_tsv(path: Path) -> None:
    pl.DataFrame({"prompt": PROMPTS}).write_csv(path, separator="\t")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("pool.parquet", write_parquet),
        ("pool.jsonl", write_jsonl),
        ("pool.ndjson", write_jsonl),
        ("pool.json", write_array),
        ("pool.CSV", write_csv),
        ("pool.tsv", write_tsv),
    ],
)
def test_every_format_gives_the_same_prompts(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    assert texts(tmp_path / name) == PROMPTS
    if not name.endswith(".parquet"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        assert texts(tmp_path / f"{name}.gz") == PROMPTS


def test_plain_text_has_a_prompt_a_line_whatever_the_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "pool.txt"
    file.write_bytes("\ufeffone\r\n\r\ntwo\x00\u2028still two\r\nthree\rstill three".encode())
    assert texts(file) == ["one", "two\x00\u2028still two", "three\rstill three"]


def test_source_licence_and_language_come_along(tmp_path: Path) -> None:
    file = jsonl(
        tmp_path / "pool.jsonl",
        {"text": "a", "source": "forum", "license": "MIT", "language": "English"},
        {"text": "b"},
    )
    first, second = read_pool(file).prompts
    assert (first.source, first.licence, first.language) == ("forum", "MIT", "English")
    assert (second.source, second.licence, second.language) == ("pool.jsonl", None, None)


def test_the_prompt_column_can_be_named(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "pool.jsonl", {"prompt": "no", "body": "yes"})
    assert texts(file, prompt_column="body") == ["yes"]


def test_duplicates_are_left_for_the_exact_gate(tmp_path: Path) -> None:
    assert texts(jsonl(tmp_path / "pool.jsonl", {"prompt": "same"}, {"prompt": "same"})) == ["same", "same"]


def conversation(first: str | None, language: str = "English") -> dict[str, object]:
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": first}]
    return {"conversation": [*turns, {"role": "assistant", "content": "…"}], "language": language}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_wildchat_gives_first_human_turns_in_the_wanted_languages(tmp_path: Path, suffix: str) -> None:
    midjourney = 'As a prompt generator for a generative AI called "Midjourney", you will create image prompts.'
    rows = [conversation("Hi"), conversation("Salut", "French"), conversation(midjourney), conversation(None)]
    file = tmp_path / f"wild{suffix}"
    if suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(file)
    else:
        jsonl(file, *rows)
    pool = read_pool(file, languages=["en"])
    assert [prompt.text for prompt in pool.prompts] == ["Hi"]
    unit = {".jsonl": "lines", ".parquet": "rows"}[suffix]
    assert pool.warnings == (
        f"wild{suffix}: {unit} skipped for want of a prompt: 1 (first: 4)",
        f"wild{suffix}: {unit} left out for their language: 1 (first: 2)",
        f"wild{suffix}: {unit} left out as Midjourney boilerplate: 1 (first: 3)",
    )
    assert len(read_pool(file, languages=[]).prompts) == 2
    assert texts(file, languages=["fr"]) == ["Salut"]


def test_sharegpt_gives_first_human_turns(tmp_path: Path) -> None:
    turns = [{"from": "gpt", "value": "Welcome"}, {"from": "human", "value": "Hello"}]
    assert texts(jsonl(tmp_path / "share.jsonl", {"conversations": turns})) == ["Hello"]


@pytest.mark.parametrize(
    ("text", "boilerplate"),
    [
        ('As a prompt generator for a generative AI called "Midjourney", you will create', True),
        ("I want you to act as a prompt generator for Midjourney's program", True),
        ("Hi! You are a Midjourney expert who writes prompts.", True),
        ("What is Midjourney, and what is a prompt?", False),
        ("As a nurse I need a prompt answer.", False),
    ],
)
def test_only_openings_that_set_up_a_prompt_generator_are_boilerplate(text: str, boilerplate: bool) -> None:
    assert is_midjourney_boilerplate(text) is boilerplate


def test_a_language_is_the_same_by_name_and_by_code() -> None:
    assert {language_code(name) for name in ("English", "english ", "en", "EN-gb", "en_US")} == {"en"}
    assert language_code("Klingon") == "klingon"


def test_what_utf8_cannot_hold_becomes_a_replacement_character(tmp_path: Path) -> None:
    file = tmp_path / "pool.jsonl"
    file.write_bytes(b'{"prompt": "fine \\ud83d\\ude00"}\n{"prompt": "lone \\ud800"}\n{"prompt": "bad \xff byte"}\n')
    pool = read_pool(file)
    assert [prompt.text for prompt in pool.prompts] == ["fine 😀", "lone \ufffd", "bad \ufffd byte"]
    mended = "lines mended with U+FFFD, for lone surrogates or bytes that are not UTF-8"
    assert pool.warnings == (f"pool.jsonl: {mended}: 2 (first: 2)",)


def test_null_prompts_are_skipped_and_counted(tmp_path: Path) -> None:
    pool = read_pool(jsonl(tmp_path / "pool.jsonl", {"prompt": "a"}, {"prompt": None}, {"source": "x"}))
    assert len(pool.prompts) == 1
    assert pool.warnings == ("pool.jsonl: lines skipped for want of a prompt: 2 (first: 2)",)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt"])
def test_a_very_long_prompt_is_read(tmp_path: Path, suffix: str) -> None:
    long = "word " * 100_000
    line = json.dumps({"prompt": long}) if suffix == ".jsonl" else long
    (tmp_path / f"pool{suffix}").write_text(("prompt\n" if suffix == ".csv" else "") + line + "\n")
    assert texts(tmp_path / f"pool{suffix}") == [long]


@given(st.integers(1, 30), st.integers(0, 5))
def test_a_sample_is_seeded_and_kept_in_file_order(limit: int, seed: int) -> None:
    everything = texts(STARTER_POOL)
    sample = texts(STARTER_POOL, limit=limit, seed=seed)
    places = iter(everything)
    assert len(sample) == limit
    assert all(prompt in places for prompt in sample)  # a subsequence
    assert sample == texts(STARTER_POOL, limit=limit, seed=seed)


def test_another_seed_gives_another_sample() -> None:
    assert texts(STARTER_POOL, limit=20, seed=1) != texts(STARTER_POOL, limit=20, seed=2)


def test_a_limit_above_the_size_takes_everything(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool.jsonl")
    assert texts(tmp_path / "pool.jsonl", limit=9) == PROMPTS


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_text_survives_every_format(tmp_path_factory: pytest.TempPathFactory, prompts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    frame = pl.DataFrame({"prompt": prompts})
    frame.write_parquet(folder / "a.parquet")
    frame.write_ndjson(folder / "a.jsonl")
    frame.write_csv(folder / "a.csv", quote_style="always")
    for name in ("a.parquet", "a.jsonl", "a.csv"):
        assert texts(folder / name) == prompts


BAD_FILES: list[tuple[str, bytes, str]] = [
    ("pool.docx", b"x", "cannot tell the format from the name; it should end in .parquet"),
    ("pool.parquet.gz", b"x", "cannot tell the format from the name"),
    ("pool.parquet", b"PAR1 but no more", "not a readable Parquet file"),
    ("pool.jsonl", b"", "holds no prompts"),
    ("pool.csv", b"prompt\n", "holds no prompts"),
    ("pool.jsonl", b'{"prompt": null}\n', "holds no prompts; pool.jsonl: lines skipped for want of a prompt: 1"),
    ("pool.jsonl", b'{"prompt": "a"}\n\n{"prompt": "b"\n', "line 3 is not JSON"),
    ("pool.jsonl", b'{"prompt": "a"}\n"b"\n', 'line 2 holds a str; it should be an object, as {"prompt"'),
    ("pool.jsonl", b'{"prompt": "a"}\n{"prompt": 7}\n', "line 2: the prompt is 7 (int); it should be text"),
    ("pool.jsonl", b'{"conversation": ["a"]}\n', "line 1: a turn is 'a' (str); it should have role and content"),
    ("pool.jsonl", b'{"body": "a", "id": 1}\n', "its columns are 'body', 'id'; name the right one as prompt_column"),
    ("pool.json", b'[{"prompt": "a"},', "not a JSON array"),
    ("pool.csv", b"prompt,source\na,b\na, b, c\n", "row 2 has 3 fields, the header has 2"),
    ("pool.csv", b'prompt\n"never closed\n', "is not well-formed"),
    ("pool.txt", "a".encode("utf-16"), "is UTF-16 text; it should be UTF-8"),
    ("pool.txt.gz", b"not gzip", "cannot be read"),
    ("pool.txt.gz", gzip.compress(b"abc" * 100)[:20], "cannot be read"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_bad_input_is_one_clear_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FittestError) as caught:
        read_pool(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_named_column_that_is_missing_lists_the_columns() -> None:
    with pytest.raises(FittestError, match=r"no column 'body'; its columns are 'prompt', 'source', 'licence', 'kind'"):
        read_pool(STARTER_POOL, prompt_column="body")


def test_a_number_in_parquet_is_named_by_its_row(tmp_path: Path) -> None:
    pl.DataFrame({"prompt": [None, 1.5]}).write_parquet(tmp_path / "pool.parquet")
    with pytest.raises(FittestError, match=r"row 2: the prompt is 1.5 \(float\); it should be text"):
        read_pool(tmp_path / "pool.parquet")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FittestError, match=r"pool\.jsonl: no such file"):
        read_pool(tmp_path / "pool.jsonl")
    with pytest.raises(FittestError, match="is a folder; it should be a file"):
        read_pool(tmp_path)


class FakeDataset:
    """As much of `datasets.Dataset` as is asked of it."""

    column_names = ("prompt", "extra")

    def select_columns(self, names: list[str]) -> list[dict[str, str]]:
        return [{name: f"{name} {number}" for name in names} for number in range(2)]


@pytest.fixture
def fake_datasets(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("datasets")
    module.DatasetDict = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


@pytest.mark.parametrize(("location", "split"), [("hf:a/b", "train"), ("hf:a/b:test[:9]", "test[:9]")])
def test_hub_data_sets_are_read_with_their_split(fake_datasets: types.ModuleType, location: str, split: str) -> None:
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, split: str) -> FakeDataset:
        asked.append((name, split))
        return FakeDataset()

    fake_datasets.load_dataset = load_dataset  # type: ignore[attr-defined]
    pool = read_pool(location)
    assert asked == [("a/b", split)]
    assert [(prompt.text, prompt.source) for prompt in pool.prompts] == [("prompt 0", "a/b"), ("prompt 1", "a/b")]


def test_saved_data_sets_are_read(fake_datasets: types.ModuleType, tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text("{}")
    fake_datasets.load_from_disk = lambda folder: {"train": FakeDataset()}  # type: ignore[attr-defined]
    assert texts(tmp_path) == ["prompt 0", "prompt 1"]
    fake_datasets.load_from_disk = lambda folder: {"test": FakeDataset()}  # type: ignore[attr-defined]
    with pytest.raises(FittestError, match="has no split 'train'; give the folder of one of test"):
        read_pool(tmp_path)


def test_a_data_set_of_a_hub_may_be_larger_than_a_file(
    fake_datasets: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [{"prompt": "word " * 20_000}] * 12
    monkeypatch.setattr(FakeDataset, "select_columns", lambda self, names: long)
    monkeypatch.setenv("FITTEST_MAX_FILE_MIB", "1")
    fake_datasets.load_dataset = lambda name, split: FakeDataset()  # type: ignore[attr-defined]
    assert len(read_pool("hf:a/b").prompts) == 12


def test_what_a_conversation_has_beside_its_texts_hardly_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ("toxic", "redacted", "created", "timestamp", "token_counter", "top_p", "temperature", "turn_identifier")
    beside = {f"{name}_of_this_turn_of_the_conversation": False for name in keys}
    rows = [{"conversation": [{"role": "user", "content": f"word {row}", **beside}]} for row in range(2000)]
    pl.DataFrame(rows).write_parquet(tmp_path / "pool.parquet")
    monkeypatch.setenv("FITTEST_MAX_FILE_MIB", "1")
    assert len(read_pool(tmp_path / "pool.parquet").prompts) == 2000


def test_trouble_with_the_hub_is_one_line(fake_datasets: types.ModuleType) -> None:
    def load_dataset(name: str, split: str) -> FakeDataset:
        raise ConnectionError("no\nnetwork")

    fake_datasets.load_dataset = load_dataset  # type: ignore[attr-defined]
    with pytest.raises(FittestError, match=r"hf:a/b: cannot be loaded \(no network\)"):
        read_pool("hf:a/b")


def test_a_hub_name_has_an_owner() -> None:
    with pytest.raises(FittestError, match=r"hf:csv: should be hf:owner/name\[:split\]"):
        read_pool("hf:csv")


def test_without_the_datasets_package_its_pip_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FittestError, match="pip install datasets"):
        read_pool("hf:a/b")


def test_the_starter_pool_is_varied_and_opens_with_short_prompts() -> None:
    rows = [json.loads(line) for line in STARTER_POOL.read_text(encoding="utf-8").splitlines()]
    prompts = texts(STARTER_POOL)
    assert len(prompts) >= 72
    assert len(prompts) - len(set(prompts)) == 1  # one duplicate, on purpose
    assert all(len(prompt.split()) <= 25 for prompt in prompts[:36])
    assert len(set(prompts[:36])) == 36
    assert {row["licence"] for row in rows} == {"Apache-2.0"}
    assert len({row["kind"] for row in rows[:36]}) >= 8


def test_real_human_prompts_are_read_whole() -> None:
    file = SHARED / "prompts" / "human_prompts.parquet"
    if not file.exists():
        pytest.skip(f"{file} is absent")
    pool = read_pool(file)
    assert len(pool.prompts) == 9_689
    assert pool.warnings == ()
    assert {prompt.licence for prompt in pool.prompts} == {"MIT", "Apache-2.0", "CC0-1.0"}


def test_a_hub_behind_a_proxy_for_everything_is_reached_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{proxy.getsockname()[1]}")
        assert _answers.__wrapped__("http://no-such-host.invalid")
