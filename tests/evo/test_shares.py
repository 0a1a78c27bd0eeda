"""Shares of operators: a floor, a sum of one, and more for whoever brings more survivors for each token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth, Stage
from fittest.evo.shares import MatchedShares, Shares
from fittest.evo.spending import Spending

MIX = {"self_rip": 0.5, "mutate": 0.3, "cross": 0.2}


def offspring(operator: str, *, survived: bool, tokens: int, stage: Stage = "rollout") -> Prompt:
    made = Prompt(f"{operator} {survived} {tokens}", Birth(operator, 1, 0))
    made.survived = survived
    made.spent.add(stage, Spending(1, tokens, 0, 0))
    return made


def family(operator: str, survivors: int, failed: int, tokens: int) -> list[Prompt]:
    return [offspring(operator, survived=number < survivors, tokens=tokens) for number in range(survivors + failed)]


def matched(*families: list[Prompt], mix: dict[str, float] = MIX) -> dict[str, float]:
    shares = MatchedShares(mix)
    for one in families:
        shares.learn(one)
    return dict(zip(shares.names, shares.probabilities, strict=True))


def test_shares_that_stay_are_those_of_the_mix_whatever_survives() -> None:
    shares = Shares({"b": 3, "a": 1})
    shares.learn(family("a", 9, 0, 5))
    assert (shares.names, shares.probabilities, shares.figures) == (["a", "b"], [0.25, 0.75], {})


def test_shares_follow_survivors_for_each_token() -> None:
    # 40 survivors for 1,000 tokens, 10 for 1,000 and none for 1,000: 50 for 3,000, of which each is credited with one
    found = matched([*family("mutate", 40, 0, 25), *family("cross", 10, 10, 50), *family("self_rip", 0, 10, 100)])
    rates = {"mutate": 41 / 1060, "cross": 11 / 1060, "self_rip": 1 / 1060}
    expected = {name: 0.05 + 0.85 * rate / sum(rates.values()) for name, rate in rates.items()}
    assert found == pytest.approx(expected)


def test_the_same_survivors_for_more_tokens_are_worth_less() -> None:
    found = matched([*family("mutate", 20, 20, 10), *family("cross", 20, 20, 30)], mix={"mutate": 1, "cross": 1})
    assert found["mutate"] > 2 * found["cross"]


def test_without_survivors_or_tokens_the_mix_stands_and_missing_tokens_are_told() -> None:
    assert matched(family("mutate", 0, 30, 10)) == pytest.approx(MIX)
    assert matched(family("mutate", 30, 0, 0)) == pytest.approx(MIX)
    assert matched(family("pool", 30, 30, 10)) == pytest.approx(MIX)
    shares = MatchedShares(MIX)
    shares.learn(family("mutate", 0, 5, 0))
    assert not shares.notes
    shares.learn(family("mutate", 5, 0, 0))
    assert "the engine counts no tokens" in shares.notes[0]


def test_a_few_offspring_do_not_say_much() -> None:
    lucky = matched([*family("mutate", 1, 0, 10), *family("cross", 10, 90, 10)], mix={"mutate": 1, "cross": 1})
    # the rate of the one is ten times that of the others
    assert lucky["mutate"] < 0.7


def test_what_an_audit_asks_changes_nothing() -> None:
    plain = [*family("mutate", 4, 6, 10), *family("cross", 4, 6, 10)]
    audits: list[Stage] = ["audit", "reference"]
    audited = [*plain, *(offspring("cross", survived=False, tokens=1000, stage=stage) for stage in audits)]
    assert matched(audited) == matched(plain)


def test_an_operator_without_weight_stays_out() -> None:
    found = matched([*family("mutate", 5, 5, 10), *family("cross", 5, 5, 10)], mix={**MIX, "cross": 0.0})
    assert found["cross"] == 0.0
    assert sum(found.values()) == pytest.approx(1.0)


_COUNTS = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 500))


@given(st.lists(_COUNTS, min_size=1, max_size=30), st.booleans())
def test_every_operator_keeps_its_floor_in_whatever_order_offspring_stand(
    counts: list[tuple[int, int, int]], reverse: bool
) -> None:
    names = [f"operator {number:02d}" for number in range(len(counts))]
    born = [prompt for name, count in zip(names, counts, strict=True) for prompt in family(name, *count)]
    found = matched(born, mix=dict.fromkeys(names, 1.0))
    assert sum(found.values()) == pytest.approx(1.0)
    assert min(found.values()) >= min(0.05, 1 / len(names)) - 1e-12 or found == dict.fromkeys(names, 1 / len(names))
    if reverse:
        assert matched(born[::-1], mix=dict.fromkeys(names, 1.0)) == found
    halves = matched(born[: len(born) // 2], born[len(born) // 2 :], mix=dict.fromkeys(names, 1.0))
    assert halves == found
