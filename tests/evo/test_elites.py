"""The elite of a cell is the best that lies in it; parents and exemplars are drawn from elites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from fittest.evo.breeding import Stock
from fittest.evo.elites import Elites
from fittest.evo.prompt import Prompt
from fittest.evo.records import Thresholds
from fittest.evo.state import Generation, State
from tests.evo.divided import ByFirstLetter, survivor

pytest.importorskip("ribs", reason="the extra `archive` is not installed")


def _finished(prompts: Sequence[Prompt]) -> Generation:
    return Generation(0, list(prompts), Thresholds("absolute", {}), {})


def _scores(state: State, prompts: Sequence[Prompt]) -> NDArray[np.float64]:
    return np.array([prompt.metrics.m1 for prompt in prompts if prompt.metrics], dtype=np.float64)


def _uniform(state: State) -> Stock:
    return Stock.freeze(state.population, state.survivors)


def _elites(*survivors: Prompt) -> tuple[Elites, State]:
    state = State(population=list(survivors), survivors=list(survivors))
    state.finished.append(_finished(survivors))
    return Elites([ByFirstLetter()], scores=_scores, otherwise=_uniform), state


def _drawn(elites: Elites, state: State, shots: int = 2, slots: int = 200) -> tuple[Counter[str], Counter[str]]:
    """Counts how often each prompt is a parent, and an exemplar, over many slots."""
    parents: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    stock = elites.stock(state)
    for slot in range(slots):
        rng = np.random.default_rng(slot)
        (parent,) = stock.draw_parents(1, rng)
        exemplars, _ = stock.draw_exemplars(shots, rng, without=[parent])
        assert parent not in exemplars
        assert len(set(exemplars)) == len(exemplars)
        parents[parent.text] += 1
        shown.update(prompt.text for prompt in exemplars)
    return parents, shown


def test_the_elite_of_a_cell_is_the_best_and_of_equals_the_first() -> None:
    elites, state = _elites(survivor("a1", 1.0), survivor("a2", 3.0), survivor("a3", 3.0), survivor("b1", -2.0))
    parents, shown = _drawn(elites, state, shots=1)
    assert parents.keys() | shown.keys() == {"a2", "b1"}


def test_a_better_one_that_comes_later_takes_the_cell() -> None:
    elites, state = _elites(survivor("a1", 1.0), survivor("b1", 1.0))
    elites.follow(state)
    state.survivors += [survivor("a2", 2.0), survivor("b2", 0.5)]
    assert _drawn(elites, state, shots=1)[0].keys() == {"a2", "b1"}


def test_under_filled_cells_come_first_each_as_likely_as_another() -> None:
    crowd = [survivor(f"a{number}", number) for number in range(6)]
    elites, state = _elites(*crowd, *(survivor(f"{letter}1", -1.0) for letter in "bcdef"))
    parents, shown = _drawn(elites, state, shots=2, slots=2000)
    # the median cell holds one survivor, so that all but the crowded one are under-filled
    assert parents.keys() == shown.keys() == {f"{letter}1" for letter in "bcdef"}
    assert max(parents.values()) - min(parents.values()) < 120


def test_other_cells_are_drawn_from_when_the_under_filled_do_not_suffice() -> None:
    crowd = [survivor(f"a{number}", number) for number in range(6)]
    elites, state = _elites(*crowd, survivor("b1", -1.0), survivor("c1", -1.0))
    parents, shown = _drawn(elites, state, shots=2)
    assert parents.keys() == {"b1", "c1"}
    assert shown["a5"] == 200  # beside the parent there is one under-filled cell
    assert shown["b1"] + shown["c1"] == 200


def test_where_all_cells_are_filled_alike_all_elites_are_drawn() -> None:
    elites, state = _elites(*(survivor(f"{letter}{number}", number) for letter in "abcd" for number in range(3)))
    parents, shown = _drawn(elites, state)
    assert parents.keys() == shown.keys() == {"a2", "b2", "c2", "d2"}


def test_too_few_elites_are_topped_up_as_without_cells() -> None:
    elites, state = _elites(survivor("a1", 1.0), survivor("a2", 2.0), survivor("1", 5.0))
    rng = np.random.default_rng(1)
    stock = elites.stock(state)
    assert stock.draw_parents(1, rng)[0].text == "a2"
    assert {prompt.text for prompt in stock.draw_parents(3, rng)} == {"a1", "a2", "1"}
    exemplars, _ = stock.draw_exemplars(2, rng, without=[state.survivors[1]])
    assert {prompt.text for prompt in exemplars} == {"a1", "1"}


def test_survivors_that_have_no_place_still_breed_while_there_is_no_elite() -> None:
    elites, state = _elites(survivor("1", 1.0), survivor("2", 1.0), survivor("3", 1.0))
    parents, _ = _drawn(elites, state, shots=1)
    assert parents.keys() == {"1", "2", "3"}
    assert elites.unplaced == 3
    assert elites.notes == ["3 of 3 survivors are in no cell: the engine's label is unreadable"]


def test_figures_are_coverage_and_the_shares_of_the_pool_that_elites_surpass() -> None:
    pool = [survivor(text, worth) for text, worth in (("a1", 1.0), ("a2", 2.0), ("b1", 3.0), ("c1", 4.0))]
    elites, state = _elites(*pool)
    # elites a2, b1 and c1 are better than 1, 2 and 3 of 4
    assert elites.figures(state) == {"coverage": 3 / 8, "qd_score": pytest.approx(6 / 4)}
    state.survivors.append(survivor("d1", 9.0, generation=1))
    assert elites.figures(state) == {"coverage": 4 / 8, "qd_score": pytest.approx(6 / 4 + 1)}
    state.finished[0].candidates[0].eliminated = True
    state.finished[0].candidates[0].metrics = None
    assert elites.figures(state)["qd_score"] == pytest.approx(6 / 4 + 1)


def test_who_is_no_parent_any_more_is_no_elite() -> None:
    elites, state = _elites(survivor("a1", 1.0), survivor("a2", 2.0), survivor("b1", 1.0))
    assert _drawn(elites, state, shots=1)[1].keys() == {"a2"}
    state.survivors[1].outdated = True
    state.look_again()
    assert _drawn(elites, state, shots=1)[0].keys() == {"a1", "b1"}


def test_a_single_cell_that_lags_behind_is_not_the_parent_of_all() -> None:
    elites, state = _elites(
        *(survivor(f"{letter}{number}", number) for letter in "abcdefg" for number in range(5)), survivor("h1", -1.0)
    )
    parents, _ = _drawn(elites, state, slots=800)
    assert len(parents) == 8
    assert parents["h1"] < 150


def test_placing_some_at_a_time_is_placing_all_at_once() -> None:
    rng = np.random.default_rng(5)
    survivors = [survivor(f"{'abcdefgh'[rng.integers(8)]}{number}", rng.integers(6)) for number in range(60)]
    at_once, state = _elites(*survivors)
    at_once.follow(state)
    by_and_by, growing = _elites()
    growing.finished = list(state.finished)
    for prompt in survivors:
        growing.survivors.append(prompt)
        by_and_by.follow(growing)
    assert by_and_by.filled == at_once.filled
    assert by_and_by.figures(growing) == at_once.figures(state)
    assert _drawn(by_and_by, growing) == _drawn(at_once, state)
