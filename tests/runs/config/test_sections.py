"""Sections of the configuration: each kind has its own keys, a misspelt one gets the nearest, files are beside."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.errors import FittestError
from fittest.runs import parse_config
from fittest.runs.config import Config
from fittest.runs.config.engine import ENGINES, EngineSection
from fittest.runs.config.file import load_config
from fittest.runs.config.reward import REWARDS, RewardSection, RunJudgeSection

POOL = {"pool": {"path": "pool.jsonl"}}

OF_ENGINES: dict[str, Any] = {
    "model": "m", "context": 512, "threads": 3, "base_url": ["http://a/v1"], "api_key_env": "KEY", "timeout": 5.0,
    "samples_per_request": 2, "adapter": "a", "device": "cpu", "tensor_parallel_size": 2, "max_model_len": 9,
    "gpu_memory_utilization": 0.5, "engine_args": {"a": 1}, "latency": 0.1, "path": "p", "prompt_column": "q",
    "response_column": "r",
}  # fmt: skip
OF_REWARDS: dict[str, Any] = {
    "path": "p", "prompt_column": "q", "response_column": "r", "column": "c", "weights": {"a": 1.0}, "model": "m",
    "trust_remote_code": True, "dtype": "float16", "batch_tokens": 5, "base_url": ["http://a/v1"], "scale": 4,
    "api_key_env": "KEY", "slots": 3, "timeout": 5.0, "votes": 3,
}  # fmt: skip

TAKES = {
    "llamacpp": {"model", "adapter", "context", "threads"},
    "openai": {"model", "base_url", "api_key_env", "timeout", "samples_per_request"},
    "transformers": {"model", "adapter", "context", "device", "samples_per_request"},
    "vllm": {
        "model", "tensor_parallel_size", "gpu_memory_utilization", "max_model_len", "adapter", "engine_args",
        "samples_per_request",
    },
    "null": {"latency", "model"},
    "replay": {"path", "prompt_column", "response_column", "model"},
}  # fmt: skip
NEEDS = {"openai": {"model", "base_url"}, "transformers": {"model"}, "replay": {"path"}}


def config_of(**sections: dict[str, Any]) -> Config:
    return parse_config({**POOL, **sections})


def test_every_kind_of_engine_is_held_to_its_keys() -> None:
    assert set(TAKES) == set(ENGINES.built_in)


@given(st.sampled_from(sorted(TAKES)), st.sets(st.sampled_from(sorted(OF_ENGINES)), max_size=5))
def test_an_engine_takes_its_own_keys_and_no_other(kind: str, keys: set[str]) -> None:
    tables = {"kind": kind, **{key: OF_ENGINES[key] for key in keys}}
    foreign, missing = keys - TAKES[kind], NEEDS.get(kind, set()) - keys
    if foreign or missing:
        with pytest.raises(FittestError) as caught:
            config_of(engine=tables)
        message = str(caught.value)
        assert (f'engine kind "{kind}" does not take {", ".join(sorted(foreign))}' in message) == bool(foreign)
        assert (f'engine kind "{kind}" needs ' in message) == bool(missing)
    else:
        config = config_of(engine=tables)
        assert {key: config.toml_tables()["engine"][key] for key in keys} == {key: OF_ENGINES[key] for key in keys}
        same_after_writing(config)


@given(st.sampled_from(sorted(REWARDS.built_in)), st.sets(st.sampled_from(sorted(OF_REWARDS)), max_size=4))
def test_a_reward_section_is_refused_in_words_or_loads_equal(kind: str, keys: set[str]) -> None:
    refused, config = None, None
    try:
        config = config_of(reward={"kind": kind, **{key: OF_REWARDS[key] for key in keys}})
    except FittestError as error:
        refused = str(error)
    if config is not None:
        same_after_writing(config)
    else:
        assert f'reward kind "{kind}"' in str(refused) or "not both" in str(refused)


def same_after_writing(config: Config) -> None:
    """As run.toml, and as what the doctor hands to its processes."""
    assert parse_config(config.toml_tables()) == config
    assert parse_config(json.loads(config.model_dump_json())) == config


def test_a_file_for_one_engine_runs_as_null_or_replay_unchanged() -> None:
    for keys in ({"kind": "null"}, {"kind": "replay", "path": "responses.parquet"}):
        same_after_writing(config_of(engine={"model": "smollm2-135m", **keys}))


def test_nothing_is_as_good_as_an_absent_key() -> None:
    assert config_of(engine={"kind": "null", "context": None, "latency": None}) == config_of(engine={"kind": "null"})
    assert config_of(reward={"kind": "classifier", "model": "r", "base_url": []}) == config_of(
        reward={"kind": "classifier", "model": "r"}
    )

    for key in ("timeout", "base_url", "engine_args", "latency"):
        with pytest.raises(FittestError, match=f"does not take {key}"):
            config_of(engine={"kind": "llamacpp", key: []})


def test_the_base_of_the_sections_made_by_hand_becomes_the_section_of_its_kind() -> None:
    pool = {"path": "builtin:starter"}
    by_hand = Config.model_validate({"pool": pool, "engine": EngineSection(kind="null", slots=3)})
    assert by_hand.engine == config_of(engine={"kind": "null", "slots": 3}).engine
    with pytest.raises(ValueError, match="unknown engine 'nul'; did you mean 'null'"):
        Config.model_validate({"pool": pool, "engine": EngineSection(kind="nul")})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"engin": {"kind": "null"}}, "unknown key engin; did you mean engine?"),
        ({"engine": {"modle": "m"}}, "unknown key engine.modle; did you mean engine.model?"),
        ({"engine": {"sampling": {"temprature": 1}}}, "engine.sampling.temprature; did you mean engine.sampling.temp"),
        (
            {"engine": {"kind": "lamacpp"}},
            "engine.kind = 'lamacpp': unknown engine 'lamacpp'; did you mean 'llamacpp'?",
        ),
        ({"engine": {"kind": 3}}, "engine.kind = 3: expected a name, one of llamacpp, null, openai"),
        (
            {"reward": {"kind": "clasifier"}},
            "did you mean 'classifier'? known are classifier, head, http, judge, null",
        ),
        ({"reward": {"vote": 3, "kind": "judge"}}, "unknown key reward.vote; did you mean reward.votes?"),
        ({"judge": {"retrain": 3}}, "unknown key judge.retrain; did you mean judge.retrain_every?"),
        ({"selection": {"polcy": "pareto"}}, "unknown key selection.polcy; did you mean selection.policy?"),
        ({"operators": {"shot": 3}}, "unknown key operators.shot; did you mean operators.shots?"),
        ({"operators": {"self_rip": {}}}, "unknown key operators.self_rip"),
        ({"gates": {"min_char": 3}}, "unknown key gates.min_char; did you mean gates.min_chars?"),
        ({"diversity": {"neighbors": 3}}, "unknown key diversity.neighbors; did you mean diversity.neighbours?"),
        ({"zebra": {}}, "unknown key zebra"),
    ],
)
def test_a_misspelt_key_or_kind_gets_the_nearest(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(FittestError) as caught:
        config_of(**sections)
    assert message in str(caught.value)
    assert ("did you mean" in str(caught.value)) == ("did you mean" in message or "temp" in message)


def test_a_misspelt_override_gets_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps(POOL))
    with pytest.raises(FittestError, match=r"--set run\.sead: unknown key run\.sead; did you mean run\.seed\?"):
        load_config(file, ["run.sead=3"])
    with pytest.raises(FittestError, match=r"unknown key rum; did you mean run\?"):
        load_config(file, ["rum.seed=3"])


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(FittestError) as caught:
        config_of(engine={"kind": "openai", "modle": "m", "slots": 0, "threads": 2}, gates={"rouge_l": 3})
    for part in (
        "unknown key engine.modle; did you mean engine.model?",
        "engine.slots = 0",
        'engine kind "openai" does not take threads',
        'engine kind "openai" needs model, the name that',
        "gates.rouge_l = 3",
    ):
        assert part in str(caught.value)


def test_files_are_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    file = tmp_path / "run.toml"
    cases: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
        ({"engine": {"model": "here"}}, ("engine", "model"), "beside"),
        ({"engine": {"model": "gone"}}, ("engine", "model"), "as it is"),
        ({"engine": {"model": "hf:here"}}, ("engine", "model"), "as it is"),
        ({"engine": {"adapter": "gone"}}, ("engine", "adapter"), "beside"),
        ({"engine": {"kind": "openai", "model": "here", "base_url": "http://a"}}, ("engine", "model"), "as it is"),
        ({"engine": {"kind": "replay", "path": "gone"}}, ("engine", "path"), "beside"),
        ({"engine": {"kind": "null", "model": "here"}}, ("engine", "model"), "beside"),
        ({"reward": {"kind": "recorded", "path": "gone"}}, ("reward", "path"), "beside"),
        ({"reward": {"kind": "classifier", "model": "here"}}, ("reward", "model"), "beside"),
        ({"reward": {"kind": "classifier", "model": "here", "base_url": "http://a"}}, ("reward", "model"), "as it is"),
        ({"reward": {"kind": "pairwise"}, "judge": {"model": "here"}}, ("judge", "model"), "beside"),
        ({"selection": {"policy": "absolute", "thresholds": "gone"}}, ("selection", "thresholds"), "beside"),
        ({"diversity": {"embedder": "here"}}, ("diversity", "embedder"), "beside"),
        ({"diversity": {"embedder": "gone"}}, ("diversity", "embedder"), "as it is"),
        ({"gates": {"contamination": ["gone"]}}, ("gates", "contamination"), "beside"),
        ({"pool": {"path": "gone"}}, ("pool", "path"), "beside"),
        ({"pool": {"path": "builtin:starter"}}, ("pool", "path"), "as it is"),
    ]
    for tables, (section, key), what in cases:
        file.write_text(tomli_w.dumps({**POOL, **tables}))
        found, given = load_config(file).toml_tables()[section][key], tables[section][key]
        if isinstance(found, list):
            (found,), (given,) = found, given
        assert found == (str(tmp_path / given) if what == "beside" else given), (tables, what)


def test_a_home_folder_of_nobody_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps({"pool": {"path": "~nobody_of_this_name/x"}}))
    with pytest.raises(FittestError, match=r"pool\.path = '~nobody_of_this_name/x': Could not determine home"):
        load_config(file)


SERVER = {"model": "m", "base_url": "http://a"}
MOVED = {"base_url": ["http://b"], "timeout": 2, "api_key_env": "K"}


@pytest.mark.parametrize(
    ("section", "kind", "may_change"),
    [
        ("engine", {"kind": "openai", **SERVER}, MOVED),
        ("engine", {"kind": "vllm"}, {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.4}),
        ("reward", {"kind": "classifier", **SERVER}, {**MOVED, "slots": 5}),
    ],
)
def test_where_servers_are_may_change_and_nothing_else(
    section: str, kind: dict[str, Any], may_change: dict[str, Any]
) -> None:
    before = config_of(**{section: kind}).lasting_tables()
    for key, value in may_change.items():
        assert config_of(**{section: {**kind, key: value}}).lasting_tables() == before
    assert config_of(**{section: {**kind, "model": "n"}}).lasting_tables() != before


def test_what_a_section_says_about_itself() -> None:
    def engine(**keys: Any) -> EngineSection:
        return config_of(engine=keys).engine

    def reward(**keys: Any) -> RewardSection:
        return config_of(reward=keys).reward

    assert [engine(kind="null").label, engine().label] == ["null", "smollm2-135m"]
    assert engine(kind="vllm", samples_per_request=4).samples_together == 4
    assert engine(kind="null").samples_together == 1
    assert engine(kind="openai", model="m", base_url="http://a").servers == ("http://a",)
    assert engine(kind="null").servers == reward().servers == ()
    assert not engine(kind="replay", path="p").TRIED
    assert not reward(kind="recorded", path="p").TRIED
    assert reward(kind="recorded", path="p").files == {"path": "p"}
    assert reward(kind="recorded", path="p", column="c").columns == {"c": 1.0}
    asked = {}
    for kind, votes in itertools.product(("judge", "pairwise"), (None, 3)):
        section = reward(kind=kind, votes=votes)
        asked[kind, votes] = [section.judgments(judge) for judge in (RunJudgeSection(), RunJudgeSection(model="m"))]
    assert asked == {
        ("judge", None): [10, 10],
        ("judge", 3): [3, 3],
        ("pairwise", None): [2, 0],
        ("pairwise", 3): [6, 0],
    }
    assert [config_of(reward={"kind": kind}).reward.COMPARES for kind in ("judge", "pairwise")] == [False, True]
