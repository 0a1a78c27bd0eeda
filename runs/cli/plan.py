"""`fittest plan` predicts what a run will cost, before it is paid for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fittest.runs.cli.paths import PATH
from fittest.runs.terminal import say

if TYPE_CHECKING:
    from fittest.evo.records import Role
    from fittest.evo.spending import Ledger
    from fittest.runs.config import Config
    from fittest.runs.preflight.plan import Plan


@click.command("plan")
@click.argument("config", type=PATH)
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override a key; repeatable.")
def command(config: Path, overrides: tuple[str, ...]) -> None:
    """Do a small part of the run that CONFIG describes, and predict requests, tokens, time and money of all of it.

    The part is a few prompts of the pool, answered twice, and a few proposals; nothing of it is kept.
    """
    from fittest.runs.config.file import load_config
    from fittest.runs.preflight.plan import ANSWERS, plan
    from fittest.runs.progress import progress_for_terminal

    loaded = load_config(config, overrides)
    say("doing a small part of the run:", err=True)
    made = plan(loaded, progress=progress_for_terminal(ANSWERS))
    say(_probe_line(made), "", *_table(made), "", *_remarks(made, loaded))


def _probe_line(plan: Plan) -> str:
    from fittest.runs.progress import duration

    probe, spent = plan.probe, plan.probe.spent
    cost = f", cost {plan.cost(spent):.4g}" if plan.prices.known else ""
    time = duration(plan.seconds(spent))
    return (
        f"probe: {spent.total.requests} requests, {spent.total.tokens} tokens, {time} of the engine{cost};"
        f" {probe.proposals_passed} of {probe.proposals} proposals passed the gates"
    )


def _table(plan: Plan) -> list[str]:
    named = {name: name + _asked(plan, ledger) for name, ledger in plan.lines.items()}
    rows = [
        *((named[name], spent) for name, spent in plan.lines.items()),
        ("expected", plan.expected),
        ("at most, if all proposals pass", plan.most),
    ]
    width = max(len(name) for name, _ in rows)
    head = f"{'':<{width}} {'requests':>12} {'prompt tokens':>15} {'completion':>13} {'engine time':>15}"
    return [
        head + (f" {'cost':>10}" if plan.prices.known else ""),
        *(f"{name:<{width}} {_figures(plan, spent)}" for name, spent in rows),
    ]


def _asked(plan: Plan, spent: Ledger) -> str:
    """Says which engine a line is of, if there are several."""
    if len(plan.engines) == 1:
        return ""
    role: Role = next((role for role in plan.engines if spent.of_role(role).requests), "policy")
    return f", by {plan.engines[role].label}"


def _figures(plan: Plan, spent: Ledger) -> str:
    from fittest.runs.progress import duration

    cost, total = f" {plan.cost(spent):>10.4g}" if plan.prices.known else "", spent.total
    return (
        f"{total.requests:>12,} {total.prompt_tokens:>15,} {total.completion_tokens:>13,}"
        f" {duration(plan.seconds(spent)):>15}{cost}"
    )


def _fresh_draws(config: Config) -> list[str]:
    """Says how much is drawn of prompts that pass, of which nobody knows beforehand how many there are."""
    section, n = config.selection, config.engine.sampling.n
    confirmed = (
        [f"up to {section.confirm} fresh draws of each prompt that passes its first"] if section.confirm else []
    )
    again = [f"one more of {section.retest:.0%} of the survivors, at least 20"] if section.retest else []
    return [f"not counted: {' and '.join([*confirmed, *again])}, {n} answers each"] if confirmed or again else []


def _remarks(plan: Plan, config: Config) -> list[str]:
    """Says what the figures leave out, and which caps will end the run earlier."""
    expected, budget = plan.expected, config.budget
    totals = {
        "max_requests": expected.total.requests,
        "max_tokens": expected.total.tokens,
        "max_seconds": plan.seconds(expected),
        "max_cost": plan.cost(expected),
    }
    caps = {name: getattr(budget, name) for name in totals}
    shares = {name: caps[name] / total for name, total in totals.items() if total and caps[name]}
    return [
        *(
            f"warning: {count} of {plan.probe.answers} answers of the probe are missing ({reason}); the figures rest"
            " on the others"
            for reason, count in sorted(plan.probe.failures.items())
        ),
        "not counted: answers that racing saves, time of rewards that the engine does not wait for"
        + (", training of the judge" if config.judge.retrain_every else ""),
        *_fresh_draws(config),
        *([] if plan.prices.known else ["no cost: [prices] is empty"]),
        *(
            f"budget.{name} ends the run after about {share:.0%} of it"
            for name, share in shares.items()
            if share < 1.0
        ),
        *(
            [f"budget.target_survivors may end the run earlier, with {budget.target_survivors} survivors"]
            if budget.target_survivors
            else []
        ),
    ]
