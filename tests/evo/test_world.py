"""A world with known truth: what it is set to is what comes out of the real operators, engine, parser and loop."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from fittest.evo.backends.family import family_of
from fittest.evo.backends.null import WORDS, Null
from fittest.evo.breeding import proposal_request
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth, Form, Message, Proposal, Request, Sampling
from fittest.evo.world import LOCI, World
from fittest.fitness.metrics import rip_metrics
from fittest.fitness.rewards.null import NullReward
from fittest.operators.few_shot import Blend, Cross, Mutate, Reason, SelfRip
from fittest.operators.parsing import parse_candidate
from fittest.operators.repair import Repair

FORMS: list[Form] = ["completion", "prefill", "chat"]
GOLDEN = ["a7b05795710959d8", "94d3c7ebfcfa5f3e"]
"""Texts and rewards of the null engine before there were worlds."""


def salad(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.sample(WORDS, LOCI)).capitalize() + "." for _ in range(count)]


def prompts(texts: Sequence[str]) -> list[Prompt]:
    return [Prompt(text, Birth("pool", 0, 0)) for text in texts]


def proposals(a: Prompt, b: Prompt, shown: list[Prompt], rng: np.random.Generator) -> Iterator[tuple[Proposal, int]]:
    """One proposal of each operator, with the number of its parents."""
    yield SelfRip()(shown, rng), 0
    yield Reason()(shown, rng), 0
    yield Mutate()(a, shown, rng), 1
    yield Cross()(a, b, shown, rng), 2
    yield Blend()(a, b, shown, rng), 2
    yield Repair()(a, shown, rng, [("Say <task>yes</task>.", "")]), 1


def asked(proposal: Proposal, form: Form, *, seed: int = 0) -> Request:
    return proposal_request(proposal, form, sampling=Sampling(), seed=seed)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shots", [1, 2, 8])
def test_the_family_is_read_from_what_our_operators_ask_in_every_form(form: Form, shots: int) -> None:
    texts = ["Say (a, b) 3. <b>twice</b>.\nThen stop.", "Is 7 < 9?", *salad(10)]
    (a, b), shown = prompts(texts[:2]), prompts(texts[2 : 2 + shots])
    for seed in range(10):
        for proposal, count in proposals(a, b, shown, np.random.default_rng(seed)):
            expected = texts[:count] if count else [prompt.text for prompt in shown]
            assert family_of(asked(proposal, form)) == expected


def test_a_request_that_shows_no_prompt_has_no_family() -> None:
    assert family_of(Request("proposal", Sampling(), 0, prompt="Tasks:\n\n1. <task>")) == []
    assert family_of(Request("proposal", Sampling(), 0, messages=(Message("user", "Write a task."),))) == []


def bred(world: World, form: Form, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The true quality of offspring, and the mean of those that they were bred from; everything real but the model."""
    pool, engine = prompts(salad(400)), Null(world=world)
    offspring, family = [], []

    async def breed() -> None:
        for seed in range(count):
            rng = np.random.default_rng(seed)
            a, b, *shown = (pool[place] for place in rng.choice(len(pool), size=4, replace=False))
            for proposal, parents in proposals(a, b, shown, rng):
                reply = await engine.sample(asked(proposal, form, seed=seed))
                candidate = parse_candidate(reply.text, reply.finish_reason, thinks=proposal.thinks)
                if isinstance(candidate, str):
                    offspring.append(world.truth(candidate).quality)
                    family.append(np.mean([world.truth(p.text).quality for p in [a, b][:parents] or shown]))

    asyncio.run(breed())
    return np.array(offspring), np.array(family)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heritability", "ruggedness", "form"),
    [
        (0.0, 3, "completion"),
        (0.2, 0, "completion"),
        (0.2, 3, "completion"),
        (0.2, 3, "chat"),
        (0.5, 0, "completion"),
        (0.5, 3, "prefill"),
    ],
)
def test_offspring_regress_on_their_family_as_it_is_set(heritability: float, ruggedness: int, form: Form) -> None:
    world = World(heritability=heritability, ruggedness=ruggedness)
    offspring, family = bred(world, form, 1300)
    assert offspring.size > 3700
    slope = np.cov(offspring, family)[0, 1] / family.var(ddof=1)
    # the standard error of the slope is about 0.025
    assert slope == pytest.approx(heritability, abs=0.07)
    # where single words count, the mean is that of this vocabulary in this landscape
    strangers = np.array([world.truth(text).quality for text in salad(2000, seed=1)])
    expected = heritability * family.mean() + (1 - heritability) * strangers.mean()
    assert offspring.mean() == pytest.approx(expected, abs=0.09)
    assert offspring.std() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("ruggedness", [0, 2, 5, 9])
def test_autocorrelation_falls_with_ruggedness(ruggedness: int) -> None:
    world, rng = World(ruggedness=ruggedness), random.Random(5)
    here, there = [], []
    for text in salad(3000, seed=4):
        words = text.lower().rstrip(".").split()
        here.append(world.truth(" ".join(words)).quality)
        words[rng.randrange(LOCI)] = rng.choice(WORDS)
        there.append(world.truth(" ".join(words)).quality)
    # a step changes the contributions of the word itself and of those that look ahead at it
    assert np.corrcoef(here, there)[0, 1] == pytest.approx(1 - (ruggedness + 1) / LOCI, abs=0.03)


async def _drawn(world: World, texts: Sequence[str], samples: range) -> tuple[np.ndarray, np.ndarray]:
    engine, reward = Null(world=world), NullReward(world)
    rewards, lengths = [], []
    for text in texts:
        requests = [Request("rollout", Sampling(), k, k, (Message("user", text),)) for k in samples]
        answers = [(await engine.sample(request)).text for request in requests]
        rewards.append(reward.score([text] * len(answers), answers))
        lengths.append([len(answer) for answer in answers])
    return np.array(rewards), np.array(lengths)


def draw(world: World, texts: Sequence[str], samples: range) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and lengths of answers, shape (prompts, samples)."""
    return asyncio.run(_drawn(world, texts, samples))


def test_rewards_and_lengths_scatter_about_the_truth() -> None:
    world, texts = World(noise=0.8), salad(20)
    rewards, lengths = draw(world, texts, range(400))
    for text, found, long in zip(texts, rewards, lengths, strict=True):
        truth = world.truth(text)
        assert found.mean() == pytest.approx(truth.quality, abs=4 * truth.spread / 20)
        assert found.std() == pytest.approx(truth.spread, rel=0.15)
        # words of the null engine have 5.3 letters, and a blank stands between them
        assert np.median(long) == pytest.approx(6.3 * truth.words, rel=0.15)


def retest(world: World, texts: Sequence[str]) -> tuple[float, float]:
    """The share that medians of one draw of five keep, and the share of these that the same cuts keep again."""
    metrics = []
    for samples in (range(5), range(5, 10)):
        rewards, lengths = draw(world, texts, samples)
        counts = np.full(len(texts), 5)
        metrics.append(rip_metrics(rewards.ravel(), lengths.ravel(), counts).values[:, :3])
    cuts = np.median(metrics[0], axis=0)
    first, again = (
        (values[:, 0] >= cuts[0]) & (values[:, 1] >= cuts[1]) & (values[:, 2] <= cuts[2]) for values in metrics
    )
    return first.mean(), again[first].mean()


def test_a_third_of_the_kept_are_kept_again_at_the_default_noise_as_of_real_answers() -> None:
    rates = {noise: retest(World(noise=noise), salad(2000)) for noise in (0.1, World().noise, 3.0)}
    kept, again = rates[World().noise]
    # 0.057 and 0.33 on real answers; the standard error of the second is about 0.035 here
    assert 0.05 <= kept <= 0.12
    assert 0.25 <= again <= 0.41
    assert rates[0.1][1] > again + 0.1 > rates[3.0][1] + 0.1


def test_a_world_is_a_function_of_its_settings() -> None:
    text = salad(1)[0]
    assert World().truth(text) == World().truth(text)
    assert World(seed=1).truth(text) != World().truth(text)
    assert World(ruggedness=3).truth(text).quality != World().truth(text).quality
    assert World(noise=1.2).truth(text).spread == 2 * World(noise=0.6).truth(text).spread
    named = World(heritability=0.5, ruggedness=4, noise=1.0, empty=0.0, seed=9).fingerprint
    assert named == "world:1:heritability=0.5,ruggedness=4,noise=1.0,empty=0.0,seed=9"
    assert Null(world=World()).fingerprint == NullReward(World()).fingerprint == f"null:1:{World().fingerprint}"


def test_the_truth_covers_every_text() -> None:
    for text in ["", "…", "one", "one one one", "Ein Wort, zwei Wörter.", " ".join(WORDS)]:
        truth = World(ruggedness=9).truth(text)
        assert np.isfinite([truth.quality, truth.spread, truth.words]).all()
    assert World().truth("Say it, say it!") == World().truth("say  IT say it")
    # what comes after the words that count changes nothing
    assert World().truth(salad(1)[0] + " More of it.") == World().truth(salad(1)[0])


def test_without_a_world_engine_and_reward_are_as_they_were() -> None:
    async def replies() -> list[str]:
        found = []
        for seed in range(50):
            shown = "1. <task>Name a river.</task>\n2. <task>"
            about = (Message("user", "Name a river."),)
            found.append(Request("proposal", Sampling(max_tokens=20), seed, prompt=shown))
            found.append(Request("rollout", Sampling(max_tokens=40), seed, seed, about))
            about = (Message("user", "Rate it."),)
            found.append(Request("judge", Sampling(), seed, messages=about))
        return [(await Null().sample(request)).text for request in found]

    found = asyncio.run(replies())
    rewards = NullReward().score(["p"] * 150, found)
    assert Null().fingerprint == NullReward().fingerprint == "null:1"
    assert [hashlib.sha256(repr(part).encode()).hexdigest()[:16] for part in (found, rewards)] == GOLDEN
