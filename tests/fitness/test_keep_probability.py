"""keep_probability is the chance that a fresh draw is kept, on tables whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from fittest.evo.records import Range, Thresholds
from fittest.fitness.halves import HalfDraws
from fittest.fitness.keep_probability import keep_probability, why_no_probability
from fittest.fitness.metrics import rip_metrics
from fittest.fitness.pairing import parse_pairing
from fittest.fitness.repeatability import stability
from fittest.operators.policies import CutRule, levels_for
from fittest.operators.rejection import rule_that_keeps

RIP = ("m1", "m2", "m3")
MEDIANS = rule_that_keeps(CutRule(levels_for(RIP, 0.5)), RIP)


@dataclass
class World:
    """Prompts with a mean, a spread and a length of their own, that can be answered as often as one likes."""

    prompts: int
    n: int
    kind: str = "normal"

    def draw(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns rewards, lengths and counts of one draw."""
        own, luck = np.random.default_rng(7), np.random.default_rng(seed)
        size = (self.prompts, self.n)
        mean, length = own.normal(size=(2, self.prompts, 1))
        spread = np.exp(0.4 * own.normal(size=(self.prompts, 1)))
        noise = luck.standard_t(2, size=size) if self.kind == "heavy" else luck.normal(size=size)
        rewards = mean + 0.8 * spread * noise
        if self.kind == "ties":
            rewards = np.clip(np.round(1.5 * rewards + 3), 1, 5)
        if self.kind == "scale":
            rewards = 1e6 * np.exp(3 * rewards)
        # heavy tails reach beyond what an integer holds
        lengths = np.exp(np.minimum(5 + 0.7 * length + 0.3 * noise + 0.4 * luck.normal(size=size), 20.0)).astype(
            np.int64
        )
        return rewards.ravel(), lengths.ravel(), np.full(self.prompts, self.n)


def kept(world: World, seed: int) -> np.ndarray:
    """Tells which prompts a draw keeps, by its own cuts."""
    return MEDIANS(rip_metrics(*world.draw(seed)).values)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "heavy", "ties", "scale"])
@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_the_chance_is_that_of_fresh_draws(kind: str, n: int) -> None:
    world = World(800, n, kind)
    chances = np.array([keep_probability(*world.draw(seed), keep=MEDIANS, seed=seed) for seed in range(4)])
    # the truth about each prompt, by answering it again and again
    truth = np.mean([kept(world, 100 + seed) for seed in range(60)], axis=0)
    truths = np.tile(truth, (4, 1))
    for low in np.arange(0, 1, 0.2):
        inside = (chances >= low) & (chances < low + 0.2)
        if inside.sum() >= 120:
            assert abs(chances[inside].mean() - truths[inside].mean()) < 0.08
    base = truth.mean()
    assert np.mean((chances - truths) ** 2) < 0.8 * np.mean((base - truths) ** 2)


def test_it_promises_less_than_the_share_of_half_samples() -> None:
    world = World(1000, 6)
    table = world.draw(1)
    share = stability(HalfDraws(*table, rng=np.random.default_rng(0)), MEDIANS).keep_share
    sure = share > 0.9
    chances = keep_probability(*table, keep=MEDIANS)
    truth = np.mean([kept(world, 100 + seed) for seed in range(40)], axis=0)
    assert sure.sum() > 20
    assert share[sure].mean() - truth[sure].mean() > 0.2
    assert abs(chances[sure].mean() - truth[sure].mean()) < 0.1


def test_luck_alone_gives_every_prompt_nearly_the_same_chance() -> None:
    rng = np.random.default_rng(0)
    table = (rng.normal(size=4000), rng.integers(1, 500, size=4000), np.full(500, 8))
    chances = keep_probability(*table, keep=MEDIANS)
    assert chances.mean() == pytest.approx(MEDIANS(rip_metrics(*table).values).mean(), abs=0.01)
    assert chances.std() < 0.1


def test_prompts_of_any_number_of_responses_stand_in_one_table() -> None:
    rewards, lengths, _ = World(200, 8).draw(1)
    counts = np.tile([1, 2, 3, 10, 24], 40)
    rewards = rewards.copy()
    rewards[3] = np.nan
    chances = keep_probability(rewards, lengths, counts, keep=MEDIANS)
    # of the third prompt, one of three rewards is missing
    assert np.isnan(chances[::5]).all()
    assert not np.isnan(np.delete(chances, np.arange(0, 200, 5))).any()
    assert ((chances[1::5] > 0) & (chances[1::5] < 1)).all()


def test_absolute_cuts_and_other_pairings_have_a_chance_as_well() -> None:
    rewards, lengths, counts = World(300, 6).draw(1)
    cuts = rule_that_keeps(Thresholds("absolute", {"m1": Range(low=-1.0)}), ["m1"])
    chances = keep_probability(rewards, lengths, counts, keep=cuts)
    m1 = rip_metrics(rewards, lengths, counts).of("m1")
    assert np.corrcoef(chances, m1)[0, 1] > 0.6

    pairing = parse_pairing("best-random")
    draws = pairing.draws(0, [f"{i:016x}" for i in range(300)])
    chances = keep_probability(rewards, lengths, counts, keep=MEDIANS, pairing=pairing, draws=draws)
    now = MEDIANS(rip_metrics(rewards, lengths, counts, pairing=pairing, draws=draws).values)
    assert chances.mean() == pytest.approx(now.mean(), abs=0.01)
    assert chances[now].mean() > 1.5 * chances[~now].mean()


@pytest.mark.parametrize("rewards", [np.full(80, 0.5), np.tile([0.0, 1.0], 40), np.repeat(np.arange(20.0), 4)])
def test_tables_without_variety_have_chances_too(rewards: np.ndarray) -> None:
    chances = keep_probability(rewards, np.full(80, 9), np.full(20, 4), keep=MEDIANS)
    assert ((chances > 0) & (chances < 1)).all()


def test_the_same_seed_gives_the_same_chances() -> None:
    table = World(60, 6).draw(1)
    one, same, other = (keep_probability(*table, keep=MEDIANS, seed=seed) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_there_is_a_reason_where_there_is_no_chance() -> None:
    n = np.full(30, 6)
    assert why_no_probability(MEDIANS, RIP, n) is None
    assert why_no_probability("a band is not applied to half draws", RIP, n) == "a band is not applied to half draws"
    assert "reward_std" in (why_no_probability(MEDIANS, ("m1", "reward_std"), n) or "")
    assert "two scored responses" in (why_no_probability(MEDIANS, RIP, np.ones(30, dtype=np.int64)) or "")
    table = World(4, 6).draw(1)
    assert np.isnan(keep_probability(*table, keep=MEDIANS)).all()
