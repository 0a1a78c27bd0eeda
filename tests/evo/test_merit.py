"""Merit knows how much of a metric is luck: it finds what prompts are truly worth better than what was drawn does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fittest.evo.merit import Merit, stepped_up
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth, FreshDraw, MetricName, Metrics, Thresholds
from fittest.evo.state import Generation, State
from fittest.fitness.intraclass import intraclass
from fittest.fitness.metrics import rip_metrics

RIP: tuple[MetricName, ...] = ("m1", "m2", "m3")
N = 8


def prompt(number: int, metrics: Metrics | None, *more: Metrics) -> Prompt:
    made = Prompt(f"prompt {number}", Birth(operator="pool", generation=0, slot=number))
    made.metrics, made.survived = metrics, True
    made.fresh = tuple(FreshDraw(d, [], N, each, passed=True) for d, each in enumerate(more, start=1))
    return made


def metrics(values: Sequence[float], halves: Any = None) -> Metrics:
    m1, m2, m3, *more = values
    return Metrics(m1, int(m2), m3, 0, 1, N, *more, halves=halves)


def drawn(rewards: NDArray[np.float64], lengths: NDArray[np.int64], *, halved: bool = True) -> Metrics:
    """The metrics of one draw, with those of its halves."""
    (whole,) = rip_metrics(rewards, lengths, np.array([N])).values.tolist()
    one, other = rip_metrics(rewards, lengths, np.array([N // 2] * 2)).values.tolist()
    return metrics(whole, (tuple(one), tuple(other)) if halved else None)


def state_of(*generations: Sequence[Prompt]) -> State:
    finished = [Generation(number, list(some), Thresholds("none", {}), {}) for number, some in enumerate(generations)]
    return State(finished=finished)


def merit_of(*generations: Sequence[Prompt], names: Sequence[MetricName] = RIP) -> Merit:
    merit = Merit(names, intraclass)
    merit.follow(state_of(*generations))
    return merit


class World:
    """Prompts whose answers have a true mean, a true spread and a true length; each draw adds luck."""

    def __init__(self, count: int, *, seed: int, luck: float = 2.0) -> None:
        self._rng = np.random.default_rng(seed)
        self.mean = self._rng.normal(size=count)
        self.spread = luck * self._rng.lognormal(0.0, 0.3, size=count)
        self.length = self._rng.uniform(50, 500, size=count)

    def draw(self, place: int, *, halved: bool = True) -> Metrics:
        rewards = self._rng.normal(self.mean[place], self.spread[place], size=N)
        lengths = self._rng.poisson(self.length[place], size=N)
        return drawn(rewards, lengths, halved=halved)

    def truth(self, place: int, draws: int = 300) -> NDArray[np.float64]:
        """What the metrics of a draw are on average."""
        rewards = self._rng.normal(self.mean[place], self.spread[place], size=N * draws)
        lengths = self._rng.poisson(self.length[place], size=N * draws)
        return rip_metrics(rewards, lengths, np.full(draws, N)).values[:, :3].mean(axis=0)


@pytest.fixture(scope="module")
def world() -> tuple[list[Prompt], Merit, NDArray[np.float64]]:
    """400 prompts, a third of which were confirmed by two more draws, their merit and the truth about them."""
    world = World(400, seed=5)
    prompts = [
        prompt(i, world.draw(i), *(world.draw(i, halved=False) for _ in range(2 * (i % 3 == 0)))) for i in range(400)
    ]
    return prompts, merit_of(prompts), np.array([world.truth(i) for i in range(400)])


def test_reliabilities_are_those_of_the_world(world: tuple[list[Prompt], Merit, NDArray[np.float64]]) -> None:
    prompts, merit, truth = world
    first = np.array([one.metrics.values[:3] for one in prompts if one.metrics])
    expected = truth.var(axis=0) / first.var(axis=0)
    assert merit.note is None
    assert [merit.reliability[name] for name in RIP] == pytest.approx(expected.tolist(), abs=0.12)


@pytest.mark.parametrize("place", [0, 2])
def test_shrunk_metrics_are_nearer_to_the_truth_than_what_was_drawn(
    world: tuple[list[Prompt], Merit, NDArray[np.float64]], place: int
) -> None:
    prompts, merit, truth = world
    means = np.array([np.mean([d.values[place] for d in draws_of(one)]) for one in prompts])
    first = np.array([one.metrics.values[place] for one in prompts if one.metrics])
    sign = -1.0 if RIP[place] == "m3" else 1.0
    shrunk = first.mean() + sign * first.std() * merit.cases(prompts)[:, place]
    assert np.mean((shrunk - truth[:, place]) ** 2) < 0.8 * np.mean((means - truth[:, place]) ** 2)


def draws_of(one: Prompt) -> list[Metrics]:
    return [each for each in (one.metrics, *(draw.metrics for draw in one.fresh)) if each is not None]


def test_the_best_by_merit_are_truly_better_than_the_best_by_what_was_drawn(
    world: tuple[list[Prompt], Merit, NDArray[np.float64]],
) -> None:
    prompts, merit, truth = world
    raw = np.array([one.metrics.values[:3] for one in prompts if one.metrics])
    good = ((truth - truth.mean(axis=0)) / truth.std(axis=0) * [1, 1, -1]).sum(axis=1)
    by_merit = np.argsort([-merit.score(one) for one in prompts])[:40]
    by_first_m1 = np.argsort(-raw[:, 0])[:40]
    by_first_draw = np.argsort(-((raw - raw.mean(axis=0)) / raw.std(axis=0) * [1, 1, -1]).sum(axis=1))[:40]
    assert good[by_merit].mean() > good[by_first_draw].mean() > good[by_first_m1].mean()


def test_the_chance_to_beat_another_is_told_better_by_merit(
    world: tuple[list[Prompt], Merit, NDArray[np.float64]],
) -> None:
    """The Brier score of "the one with the higher value has the higher true m1", as sure as the values are apart."""
    prompts, merit, truth = world
    raw = np.array([one.metrics.values[0] for one in prompts if one.metrics])
    raw = (raw - raw.mean()) / raw.std()
    shrunk = merit.cases(prompts)[:, 0]
    rng = np.random.default_rng(1)
    one, other = rng.permutation(400)[:200], rng.permutation(400)[:200]
    won = truth[one, 0] > truth[other, 0]
    # with the reliability r of one draw, the truth about a difference has the variance 2 r (1 − r) around it
    r = merit.reliability["m1"]

    def brier(values: NDArray[np.float64]) -> float:
        from scipy.special import ndtr

        return float(np.mean((ndtr((values[one] - values[other]) / np.sqrt(2 * r * (1 - r))) - won) ** 2))

    assert brier(shrunk) < brier(raw)


def test_more_draws_are_trusted_more() -> None:
    world = World(60, seed=2)
    many = [prompt(i, world.draw(i)) for i in range(60)]
    merit = merit_of(many, names=["m1"])
    high = metrics([5.0, 100, 1.0])
    once, thrice = prompt(100, high), prompt(101, high, high, high)
    r = merit.reliability["m1"]
    assert 0 < r < 1
    assert merit.score(thrice) / merit.score(once) == pytest.approx(stepped_up(r, 3) / r)


def test_a_metric_that_is_luck_alone_decides_nothing() -> None:
    rng = np.random.default_rng(3)
    many = [prompt(i, drawn(rng.normal(size=N), np.full(N, 50 + i))) for i in range(400)]
    merit = merit_of(many)
    assert merit.reliability["m1"] < 0.15
    assert merit.reliability["m2"] == pytest.approx(1.0)
    order = sorted(many, key=merit.score)
    assert np.corrcoef([one.birth.slot for one in order], range(400))[0, 1] > 0.95


def test_a_small_gap_is_good_and_what_does_not_vary_counts_nothing() -> None:
    values = [(1.0, 10.0, float(gap), 0.0, 0.0, 0.0, 0.0) for gap in range(20)]
    many = [prompt(i, metrics(row, (row, row))) for i, row in enumerate(values)]
    merit = merit_of(many, names=["m3"])
    assert sorted(many, key=merit.score) == many[::-1]
    assert merit.reliability == {"m3": pytest.approx(1.0)}
    # m1 has no halves that differ, so it is not known how much luck is in it
    both = merit_of(many)
    assert both.reliability == {}
    assert both.note is not None
    assert "how much luck is in m1, m2 is not known" in both.note
    assert [both.score(one) for one in many] == pytest.approx([merit.score(one) for one in many])


@pytest.mark.parametrize(("count", "halved"), [(9, True), (40, False)])
def test_without_enough_halves_metrics_count_as_they_are_and_the_run_says_so(count: int, halved: bool) -> None:
    world = World(count, seed=4)
    many = [prompt(i, world.draw(i, halved=halved)) for i in range(count)]
    state, merit = state_of(many), Merit(["m1"], intraclass)
    merit.follow(state)
    raw = np.array([one.metrics.values[0] for one in many if one.metrics])
    assert [merit.score(one) for one in many] == pytest.approx(((raw - raw.mean()) / raw.std()).tolist())
    assert state.notes == [merit.note]
    assert "10 are needed" in str(merit.note)


def test_the_note_goes_once_enough_prompts_are_known() -> None:
    world = World(60, seed=6)
    many = [prompt(i, world.draw(i)) for i in range(60)]
    state, merit = state_of(many[:5]), Merit(RIP, intraclass)
    state.notes = ["something else"]
    merit.follow(state)
    assert len(state.notes) == 2
    state.finished.append(Generation(1, many[5:], Thresholds("none", {}), {}))
    merit.follow(state)
    assert (state.notes, merit.note) == (["something else"], None)


def test_those_that_a_race_spared_say_nothing_about_the_population() -> None:
    world = World(80, seed=7)
    drawn_in_full = [prompt(i, world.draw(i)) for i in range(40)]
    spared = [bred(i, metrics((9.0, 10, 0.1, 0, 0, 0, 0))) for i in range(40, 80)]
    alone, with_them = merit_of(drawn_in_full), merit_of([*drawn_in_full, *spared])
    assert with_them.reliability == alone.reliability
    assert [with_them.score(one) for one in drawn_in_full] == [alone.score(one) for one in drawn_in_full]
    assert with_them.score(spared[0]) > 0


def test_the_pool_alone_is_the_population_and_of_it_the_pilot_whatever_else_was_drawn_in_full() -> None:
    world = World(80, seed=10)
    pool = [prompt(i, world.draw(i)) for i in range(40)]
    offspring = [bred(i, world.draw(i)) for i in range(40, 80)]
    assert merit_of(pool, offspring).cases(pool).tolist() == merit_of(pool).cases(pool).tolist()
    piloted = Merit(RIP, intraclass, pilot=frozenset(range(20)))
    piloted.follow(state_of(pool, offspring))
    assert piloted.cases(pool).tolist() == merit_of(pool[:20]).cases(pool).tolist()
    assert piloted.reliability != merit_of(pool).reliability


def test_audited_offspring_stand_for_a_pool_that_was_raced() -> None:
    world = World(80, seed=10)
    pool = [prompt(i, world.draw(i, halved=False)) for i in range(40)]
    offspring = [bred(i, world.draw(i)) for i in range(40, 80)]
    merit = merit_of(pool, offspring)
    assert merit.note is None
    assert merit.reliability == merit_of(offspring).reliability


def bred(number: int, metrics: Metrics) -> Prompt:
    made = prompt(number, metrics)
    made.birth = Birth(operator="mutate", generation=1, slot=number)
    return made


def test_scores_change_only_when_a_generation_is_finished() -> None:
    world = World(60, seed=8)
    many = [prompt(i, world.draw(i)) for i in range(60)]
    state, merit = state_of(many[:30]), Merit(RIP, intraclass)
    merit.follow(state)
    before = merit.cases(many)
    merit.follow(state)
    assert (merit.cases(many) == before).all()
    state.finished.append(Generation(1, many[30:], Thresholds("none", {}), {}))
    merit.follow(state)
    after = merit.cases(many)
    assert (after != before).any()
    assert [merit.score(one) for one in many] == pytest.approx(after.sum(axis=1).tolist())


def test_what_is_not_known_of_a_prompt_is_that_of_the_population() -> None:
    world = World(30, seed=9)
    merit = merit_of([prompt(i, world.draw(i)) for i in range(30)], names=["m1", "chosen_reward"])
    assert merit.score(prompt(50, None)) == 0.0
    half_known = metrics((1.0, 5, 0.0))
    assert merit.cases([prompt(51, half_known)])[0, 1] == 0.0
    assert Merit(RIP, intraclass).score(prompt(52, half_known)) == 0.0


def test_very_large_rewards_do_not_overflow() -> None:
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(30, N)) * 1e100
    many = [prompt(i, drawn(row, np.full(N, 9 + i))) for i, row in enumerate(rewards)]
    merit = merit_of(many)
    assert np.isfinite(merit.cases(many)).all()
    assert all(0 <= share <= 1 for share in merit.reliability.values())


def test_an_average_over_a_whole_draw_is_more_reliable_than_over_half_of_it() -> None:
    world = World(400, seed=11)
    merit = merit_of([prompt(i, world.draw(i)) for i in range(400)], names=["average_reward"])
    average, noise = world.mean.var(), (world.spread**2).mean() / N
    assert merit.reliability["average_reward"] == pytest.approx(average / (average + noise), abs=0.06)


def test_two_draws_of_a_reliability_of_a_half_have_two_thirds() -> None:
    assert stepped_up(0.5, 2) == pytest.approx(2 / 3)
    assert (stepped_up(0.0, 5), stepped_up(1.0, 5)) == (0.0, 1.0)
