"""What a slot draws follows from seed, generation, slot and stock; what a failed proposal leaves is a named prompt."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from deap import base

from fittest.evo.breeding import Breeder, Draw, Stock, parents_taken, proposal_request
from fittest.evo.errors import FittestError
from fittest.evo.prompt import Prompt
from fittest.evo.records import (
    Birth,
    Completion,
    Elimination,
    Failure,
    Form,
    Message,
    Proposal,
    Request,
    Sampling,
)
from fittest.evo.seeds import SeedTree, Stream
from fittest.evo.shares import Shares

MIX = {"self_rip": 0.5, "mutate": 0.3, "cross": 0.2}


def prompt(text: str, values: tuple[float, ...] = (), *, survived: bool = False, **birth: Any) -> Prompt:
    made = Prompt(text, Birth("pool", 0, 0, **birth))
    if values:
        made.fitness.values = values
    made.survived = survived
    return made


def survivors(count: int) -> list[Prompt]:
    return [prompt(f"survivor {number}", (1, 1, 0, 1), survived=True) for number in range(count)]


def failed(count: int) -> list[Prompt]:
    """Prompts that did not survive; each is better than the next in everything."""
    return [prompt(f"failed {number}", (-number, -number, number, -number)) for number in range(count)]


def lost(text: str, m1: float, m3: float) -> Prompt:
    """A prompt that lost a race."""
    made = prompt(text)
    made.eliminated, made.elimination = True, Elimination("m1", m1, m3, ("m1",))
    return made


def by_id(prompts: Sequence[Prompt]) -> list[Prompt]:
    return sorted(prompts, key=lambda one: one.id)


def texts(prompts: Sequence[Prompt]) -> list[str]:
    return [one.text for one in prompts]


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


class Engine:
    """Stands where the feeder does, answers every request with the same reply, and notes what it was asked."""

    def __init__(self, reply: Completion | Failure) -> None:
        self.asked: list[Request] = []
        self._reply = reply

    async def ask_all(self, requests: Sequence[Request]) -> list[Completion | Failure]:
        self.asked += requests
        return [self._reply for _ in requests]


def self_rip(exemplars: Sequence[Prompt], rng: np.random.Generator) -> str:
    return "self_rip of nobody"


def mutate(parent: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> str:
    return f"mutate of {parent.text}"


def mate(mother: Prompt, father: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> str:
    return f"cross of {mother.text} and {father.text}"


def breeder(
    mix: dict[str, float] = MIX,
    *,
    seed: int = 3,
    shots: int = 2,
    engine: Engine | None = None,
    form: Form = "completion",
    **operators: Any,
) -> Breeder:
    toolbox = base.Toolbox()
    for name, operator in {"self_rip": self_rip, "mutate": mutate, "mate": mate, **operators}.items():
        toolbox.register(name, operator)
    toolbox.register("parse", lambda text, reason: text.strip() if reason == "stop" else SimpleNamespace(reason="cut"))
    return Breeder(
        toolbox=toolbox,
        feeder=engine or Engine(Failure("not to be asked")),  # type: ignore[arg-type]
        seeds=SeedTree(seed),
        shares=Shares(mix),
        shots=shots,
        sampling=Sampling(temperature=0.7, top_p=0.9, max_tokens=33, stop=("never used",)),
        form=form,
    )


def facts(draw: Draw) -> tuple[Any, ...]:
    """Everything about a draw, what its generator gives next included."""
    return (
        draw.operator, draw.generation, draw.slot, texts(draw.parents), texts(draw.exemplars), texts(draw.topped_up),
        draw.birth("wording"), draw.rng.random(),
    )  # fmt: skip


STOCK = Stock.freeze(survivors(6), [*survivors(9), *failed(4)])


def test_a_slot_draws_the_same_whatever_was_drawn_before_it() -> None:
    in_order = [facts(breeder().draw(1, STOCK, slot)) for slot in range(30)]
    shuffled = list(range(30))
    random.Random(1).shuffle(shuffled)
    one = breeder()
    found = {slot: facts(one.draw(1, STOCK, slot)) for slot in shuffled}
    assert [found[slot] for slot in range(30)] == in_order
    assert len({(operator, *parents, *shown) for operator, _, _, parents, shown, *_ in in_order}) > 20


@pytest.mark.parametrize(("seed", "generation", "slot"), [(4, 1, 0), (3, 2, 0), (3, 1, 1)])
def test_seed_generation_and_slot_each_change_the_draw(seed: int, generation: int, slot: int) -> None:
    def drawn(seed: int, generation: int, slot: int) -> list[float]:
        return breeder(seed=seed).draw(generation, STOCK, slot).rng.random(4).tolist()

    assert drawn(3, 1, 0) == drawn(3, 1, 0)
    assert drawn(seed, generation, slot) != drawn(3, 1, 0)


def test_a_stock_is_in_the_same_order_whenever_its_prompts_came() -> None:
    scored, eliminated = [*survivors(9), *failed(5)], [lost("a", 0.1, 0.5), lost("b", 0.2, 0.5)]

    def shuffled(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
        return random.Random(seed).sample(prompts, len(prompts))

    def frozen(seed: int) -> Stock:
        return Stock.freeze(shuffled(survivors(6), seed), shuffled(scored, seed), shuffled(eliminated, seed))

    first = frozen(0)
    assert first.parents == by_id(first.parents)
    assert first.survivors == by_id(survivors(9))
    for seed in range(1, 5):
        other = frozen(seed)
        assert (other.parents, other.survivors, other.failed) == (first.parents, first.survivors, first.failed)


def test_operators_are_drawn_by_their_weights_in_whatever_order_the_mix_names_them() -> None:
    named_otherwise = breeder(dict(reversed(MIX.items())))
    drawn = [breeder().draw(1, STOCK, slot).operator for slot in range(400)]
    assert drawn == [named_otherwise.draw(1, STOCK, slot).operator for slot in range(400)]
    shares = {name: count / 400 for name, count in Counter(drawn).items()}
    assert shares == pytest.approx(MIX, abs=0.08)
    assert {breeder({"mutate": 2.0, "cross": 0.0}).draw(1, STOCK, slot).operator for slot in range(50)} == {"mutate"}


@pytest.mark.parametrize(("name", "count"), [("self_rip", 0), ("mutate", 1), ("cross", 2)])
def test_each_operator_is_given_as_many_parents_as_it_takes(name: str, count: int) -> None:
    one = breeder({name: 1.0})
    for slot in range(20):
        draw = one.draw(1, STOCK, slot)
        assert len(draw.parents) == len({parent.id for parent in draw.parents}) == count
        assert set(draw.parents) <= set(STOCK.parents)


def test_the_parents_taken_are_the_parameters_before_exemplars() -> None:
    async def asynchronous(one: Prompt, two: Prompt, three: Prompt, exemplars: object, rng: object) -> str:
        return ""

    assert [parents_taken(operator) for operator in (self_rip, mutate, mate, asynchronous)] == [0, 1, 2, 3]


def test_an_operator_without_exemplars_or_rng_is_refused() -> None:
    def no_exemplars(parent: Prompt, rng: object) -> str:
        return ""

    def no_rng(parent: Prompt, exemplars: object) -> str:
        return ""

    with pytest.raises(FittestError, match=r"takes its parents, then exemplars and rng; found \(parent, rng\)"):
        parents_taken(no_exemplars)
    with pytest.raises(FittestError, match=r"found \(parent, exemplars\)"):
        parents_taken(no_rng)


def test_with_too_few_parents_other_survivors_are_taken_and_then_the_best_that_failed() -> None:
    other, parent = by_id(survivors(2))
    scored = [parent, other, *failed(3)]
    stock = Stock.freeze([parent], scored)
    assert stock.draw_parents(4, rng()) == [parent, other, *failed(2)]
    assert len(stock.draw_parents(9, rng())) == 5
    assert len(Stock.freeze(survivors(6), scored).draw_parents(4, rng())) == 4


def test_fewer_prompts_than_an_operator_takes_are_an_error() -> None:
    stock = Stock.freeze([], failed(1))
    with pytest.raises(FittestError, match="operator cross takes 2 parents, but only 1 prompts are scored"):
        breeder({"cross": 1.0}).draw(1, stock, 0)


def test_exemplars_are_survivors_drawn_without_replacement_and_never_the_parents() -> None:
    everyone = survivors(6)
    stock = Stock.freeze(everyone, everyone)
    seen = set()
    for seed in range(40):
        drawn, topped_up = stock.draw_exemplars(3, rng(seed), without=everyone[:2])
        assert topped_up == []
        assert len(set(texts(drawn))) == 3
        seen |= set(texts(drawn))
    assert seen == set(texts(everyone[2:]))


def test_exemplars_of_a_population_that_is_large_enough_are_never_other_survivors() -> None:
    everyone = by_id(survivors(9))
    few = Stock(parents=everyone[:5], survivors=everyone, exemplars=everyone[:5])
    seen = set()
    for seed in range(40):
        drawn, topped_up = few.draw_exemplars(3, rng(seed), without=everyone[:2])
        assert (len(drawn), topped_up) == (3, [])
        seen |= set(texts(drawn))
    assert seen == set(texts(everyone[2:5]))


def test_a_population_too_small_for_the_exemplars_leaves_the_choice_to_all_survivors() -> None:
    everyone = by_id(survivors(9))
    few = Stock(parents=everyone[:5], survivors=everyone, exemplars=everyone[:5])
    all_of_them = Stock(parents=everyone[:5], survivors=everyone)
    for seed in range(20):
        drawn = few.draw_exemplars(4, rng(seed), without=everyone[:2])
        assert drawn == all_of_them.draw_exemplars(4, rng(seed), without=everyone[:2])


def test_parents_are_chosen_by_the_stock_unless_there_are_too_few_of_them() -> None:
    everyone = by_id(survivors(6))
    asked = []

    def last(count: int, rng: np.random.Generator) -> list[Prompt]:
        asked.append(count)
        return everyone[-count:]

    stock = Stock(parents=everyone, survivors=everyone, choose=last)
    draw = breeder({"cross": 1.0}).draw(1, stock, 0)
    assert draw.parents == everyone[-2:]
    assert not set(draw.exemplars) & set(draw.parents)
    few = Stock(parents=everyone[:1], survivors=everyone, choose=last)
    assert few.draw_parents(2, rng()) == everyone[:2]
    assert asked == [2]


def test_too_few_survivors_are_topped_up_by_pareto_rank_and_then_by_what_lost_a_race() -> None:
    equal = [prompt(f"equal {number}", (-9, -9, 9, -9)) for number in range(3)]
    eliminated = [lost("worse", 0.1, 0.2), lost("wider", 0.3, 0.9), lost("best", 0.3, 0.2)]
    stock = Stock.freeze([], [*equal, *failed(2), *survivors(2)], eliminated)
    drawn, topped_up = stock.draw_exemplars(9, rng(), without=survivors(1))
    assert texts(drawn) == ["survivor 1"]
    expected = ["failed 0", "failed 1", *texts(by_id(equal)), "best", "wider", "worse"]
    assert texts(topped_up) == expected
    _, fewer = stock.draw_exemplars(3, rng(), without=[*survivors(1), *failed(1)])
    assert texts(fewer) == expected[1:3]


def test_prompts_without_a_valid_fitness_and_outdated_survivors_are_no_exemplars() -> None:
    outdated = prompt("outdated", (1, 1, 0, 1), survived=True)
    outdated.outdated = True
    stock = Stock.freeze([], [prompt("not measured"), outdated, *survivors(1)])
    drawn, topped_up = stock.draw_exemplars(5, rng(), without=[])
    assert (texts(drawn), texts(topped_up)) == (["survivor 0"], ["outdated"])


def test_those_that_failed_are_ranked_once_and_only_when_they_are_needed() -> None:
    ranked = []

    def rank() -> list[Prompt]:
        ranked.append(1)
        return failed(3)

    stock = Stock(parents=survivors(3), survivors=survivors(3), rank_failed=rank)
    stock.draw_parents(2, rng())
    stock.draw_exemplars(3, rng(), without=[])
    assert ranked == []
    for _ in range(2):
        assert len(stock.draw_exemplars(4, rng(), without=[])[1]) == 1
    assert ranked == [1]


def test_a_birth_names_the_family_and_joins_its_sources_and_licences() -> None:
    parent = prompt("parent", source="b; a", licence="MIT")
    exemplar = prompt("exemplar", source="c", licence=None)
    spare = prompt("spare", source="a", licence="Apache-2.0")
    birth = Draw("mutate", 2, 5, [parent], [exemplar], [spare], rng()).birth("wording")
    assert birth == Birth(
        "mutate", 2, 5, "wording", (parent.id,), (exemplar.id, spare.id), (spare.id,), "a; b; c", "Apache-2.0; MIT"
    )
    assert Draw("self_rip", 2, 5, [], [], [], rng()).birth(None) == Birth("self_rip", 2, 5)


def written(one: Breeder, slot: int = 0) -> Prompt:
    return asyncio.run(one.write(one.draw(4, STOCK, slot)))


def test_a_text_is_the_offspring_and_the_engine_is_not_asked() -> None:
    engine = Engine(Failure("not to be asked"))
    one = breeder({"cross": 1.0}, engine=engine)
    made = written(one, slot=2)
    draw = one.draw(4, STOCK, 2)
    assert made.text == f"cross of {draw.parents[0].text} and {draw.parents[1].text}"
    assert made.birth == draw.birth(None)
    assert (made.gate, engine.asked) == (None, [])


CHAT = Proposal("wording", messages=(Message("user", "Write a task."),), stop=("</task>",))


def proposing(proposal: Proposal, reply: Completion | Failure, *, form: Form = "completion") -> tuple[Breeder, Engine]:
    async def propose(exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        return proposal

    engine = Engine(reply)
    return breeder({"self_rip": 1.0}, engine=engine, form=form, self_rip=propose), engine


def test_a_proposal_is_asked_of_the_engine_with_the_seed_of_its_slot() -> None:
    one, engine = proposing(CHAT, Completion(" a new task \n", "stop", 1, 1))
    made = [written(one, slot) for slot in (5, 6)]
    assert [prompt.text for prompt in made] == ["a new task"] * 2
    assert (made[0].birth.template, made[0].birth.slot, made[0].gate) == ("wording", 5, None)
    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=33, stop=("</task>",))
    seeds = [SeedTree(3).engine_seed(Stream.PROPOSAL, 4, slot, 0) for slot in (5, 6)]
    assert engine.asked == [Request("proposal", sampling, seed, messages=CHAT.messages) for seed in seeds]
    assert seeds[0] != seeds[1]


def test_a_proposal_that_opens_a_text_is_sent_as_it_is() -> None:
    one, engine = proposing(Proposal("opening", prompt="1. <task>"), Completion("a task", "stop", 1, 1))
    assert written(one).text == "a task"
    assert [(request.prompt, request.messages) for request in engine.asked] == [("1. <task>", ())]


def test_the_parser_is_told_of_thoughts_where_an_operator_asks_for_them() -> None:
    def parse(text: str, reason: str, *, thinks: bool = False) -> str:
        return text.rpartition("<task>")[2] if thinks else "not told"

    for thinks, text in ((True, "a task"), (False, "not told")):
        reply = Completion("It is short. <task>a task", "stop", 1, 1)
        one, _ = proposing(Proposal("wording", prompt="Thoughts:", thinks=thinks), reply)
        one._toolbox.register("parse", parse)
        assert written(one).text == text


CHAT_OF_BOTH = (Message("system", "You write tasks."), Message("user", "Write a task."))
BOTH = Proposal("wording", messages=CHAT_OF_BOTH, prompt="1. <task>", stop=("</task>",), prefill="2. <task>")


@pytest.mark.parametrize(
    ("form", "prompt", "messages", "stop"),
    [
        ("completion", "1. <task>", (), ("</task>",)),
        ("prefill", None, (*CHAT_OF_BOTH, Message("assistant", "2. <task>")), ("</task>",)),
        # a model that thinks before it answers may write the closing tag while it thinks
        ("chat", None, CHAT_OF_BOTH, ()),
    ],
)
def test_a_proposal_in_both_forms_is_asked_for_in_the_form_of_the_run(
    form: Form, prompt: str | None, messages: tuple[Message, ...], stop: tuple[str, ...]
) -> None:
    one, engine = proposing(BOTH, Completion("a task", "stop", 1, 1), form=form)
    made = written(one)
    (request,) = engine.asked
    assert (request.prompt, request.messages, request.sampling.stop) == (prompt, messages, stop)
    assert request.seed == SeedTree(3).engine_seed(Stream.PROPOSAL, 4, 0, 0)
    assert (made.text, made.birth.template) == ("a task", "wording")


@pytest.mark.parametrize("form", ["completion", "prefill", "chat"])
@pytest.mark.parametrize("proposal", [CHAT, Proposal("opening", prompt="1. <task>", stop=("\n",))])
def test_a_proposal_in_one_form_is_asked_for_in_that_form_with_its_own_stops(proposal: Proposal, form: Form) -> None:
    request = proposal_request(proposal, form, sampling=Sampling(stop=("never used",)), seed=5)
    assert request == Request(
        "proposal", Sampling(stop=proposal.stop), 5, messages=proposal.messages, prompt=proposal.prompt
    )


def test_the_text_that_a_beginning_of_an_answer_belongs_to_is_the_users() -> None:
    request = proposal_request(BOTH, "prefill", sampling=Sampling(), seed=5)
    assert request.user_text == "Write a task."
    assert Request("rollout", Sampling(), 5, messages=(Message("system", "Say."),)).user_text == "Say."


def test_an_operators_proposal_without_any_text_is_an_error() -> None:
    one, _ = proposing(Proposal("nothing"), Completion("a task", "stop", 1, 1))
    with pytest.raises(FittestError, match="operator self_rip returned a Proposal with neither messages nor a prompt"):
        written(one)


def test_a_proposal_that_failed_is_turned_away_with_the_reason() -> None:
    one, _ = proposing(CHAT, Failure("too long"))
    made = written(one, slot=3)
    assert (made.text, made.gate, made.gate_reason) == ("", "parse", "no reply: too long")
    assert (made.birth.slot, made.birth.template) == (3, "wording")


def test_a_reply_that_holds_no_prompt_is_turned_away_with_what_was_written() -> None:
    one, _ = proposing(CHAT, Completion("half a ta", "length", 1, 1))
    made = written(one)
    assert (made.text, made.gate, made.gate_reason) == ("half a ta", "parse", "cut")


def test_an_operator_that_raises_or_returns_something_else_is_named() -> None:
    def broken(exemplars: object, rng: object) -> str:
        raise KeyError("topic")

    with pytest.raises(FittestError, match="operator self_rip raised KeyError: 'topic'"):
        written(breeder({"self_rip": 1.0}, self_rip=broken))
    with pytest.raises(FittestError, match=r"operator self_rip returned None; it must return a Proposal or"):
        written(breeder({"self_rip": 1.0}, self_rip=lambda exemplars, rng: None))


def test_an_operator_is_shown_exemplars_and_top_ups_and_draws_from_the_generator_of_its_slot() -> None:
    shown: list[str] = []
    numbers: list[float] = []

    def noted(exemplars: Sequence[Prompt], rng: np.random.Generator) -> str:
        shown.extend(texts(exemplars))
        numbers.append(rng.random())
        return "text"

    stock = Stock.freeze([], [*survivors(1), *failed(2)])
    one = breeder({"self_rip": 1.0}, self_rip=noted)
    draw = one.draw(1, stock, 0)
    asyncio.run(one.write(draw))
    assert shown == ["survivor 0", "failed 0"]
    assert numbers == [one.draw(1, stock, 0).rng.random()]
