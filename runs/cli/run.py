"""`fittest run` evolves a pool, or goes on with a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import click

from fittest.evo.arms import ARMS
from fittest.evo.errors import FittestError, NoSurvivorWarning
from fittest.runs.cli.paths import PATH
from fittest.runs.cli.words import counted
from fittest.runs.config import Config
from fittest.runs.config.file import load_config
from fittest.runs.output.audit_book import audit_lines
from fittest.runs.output.breadth import breadth_lines
from fittest.runs.output.folder import BUDGET_REASONS, RunFolder
from fittest.runs.output.repeatability import repeatability_in_words
from fittest.runs.output.retested import retest_lines
from fittest.runs.terminal import say


@click.command("run")
@click.argument("config", type=PATH, metavar="CONFIG|DIR")
@click.option("--out", type=PATH, help="The run's folder; not needed when DIR is one.")
@click.option("--resume", is_flag=True, help="Go on where an earlier session of this folder ended.")
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override a key; repeatable.")
@click.option(
    "--arm",
    type=click.Choice(list(ARMS)),
    help="Run a control at the same budget instead; only what it breeds from differs.",
)
def command(config: Path, out: Path | None, resume: bool, overrides: tuple[str, ...], arm: str | None) -> None:
    """Evolve the pool that CONFIG names, into the folder given by --out.

    A run that was stopped or killed goes on with `fittest run DIR --resume`; nothing that the engine already answered
    is asked again.
    """
    if config.is_dir():
        out, config = out or config, config / "run.toml"
    # `fittest run DIR --resume` with a wrong DIR is the likely mistake here, not a missing --out
    if out is None and resume and not config.exists():
        raise FittestError(f"{config}: no run here")
    if out is None:
        raise FittestError(f"--out is missing: fittest run {config} --out DIR")
    if resume and not RunFolder(out).exists:
        say(f"{out}: no run here yet; it begins now", err=True)
    if arm is not None:
        overrides = (*overrides, f"run.arm={arm}")
    evolve(load_config(config, overrides), out, resume=resume)


def evolve(config: Config, out: Path, *, resume: bool) -> None:
    """Runs with progress on standard error, and prints the results and their files at the end."""
    from fittest.runs.progress import progress_for_terminal
    from fittest.runs.session import INTERRUPTED, NO_SURVIVOR, run

    with warnings.catch_warnings():
        # it is told below, and by the exit status
        warnings.simplefilter("ignore", NoSurvivorWarning)
        result = run(config, out, resume=resume, progress=progress_for_terminal(config.engine.sampling.n))
    if result.evolution is None:
        say(f"{out} is finished; nothing was changed.")
    say(*report(RunFolder(out), result.summary))
    reason = result.summary["stop_reason"]
    if reason in BUDGET_REASONS:
        say(
            f"fittest: budget.{reason} is reached; go on with: fittest run {out} --resume --set budget.{reason}=MORE",
            err=True,
        )
    if reason == "interrupted":
        say(f"fittest: interrupted; what was answered is kept; go on with: fittest run {out} --resume", err=True)
        raise SystemExit(INTERRUPTED)
    if not result.summary["survivors"]:
        say(f"fittest: the run ended without a survivor{_why_none(result.summary)}", err=True)
        raise SystemExit(NO_SURVIVOR)


def _why_none(summary: dict[str, Any]) -> str:
    """Says where the reason stands why nothing survived."""
    if summary["stop_reason"] in BUDGET_REASONS:
        return ": its budget was reached before any prompt could survive"
    return "; the warnings above say why" if summary["warnings"] else ": no prompt passed the cuts"


def report(folder: RunFolder, summary: dict[str, Any]) -> list[str]:
    """Describes the results of a run, in a few lines.

    Args:
        folder: the run's folder; files that exist in it are listed.
        summary: what summary.json holds.
    """
    turned_away = ", ".join(f"{gate} {count}" for gate, count in summary["gate_rejections"].items()) or "none"
    idle = summary["engine_idle_fraction"]
    return [
        f"{_ending(summary['stop_reason'])} {counted(summary['generations'], 'generation')} of offspring",
        f"{counted(summary['seed_prompts'], 'human prompt')}, {counted(summary['candidates'], 'candidate')} in all;"
        f" turned away by gates: {turned_away}",
        f"{_rollouts(summary)}, {counted(summary['completion_tokens'], 'completion token')},"
        f" {summary['wall_seconds']:.0f} s, engine idle {'–' if idle is None else f'{idle:.1%}'}",
        *_spending_lines(folder.spending()),
        *audit_lines(summary),
        f"{counted(summary['survivors'], 'survivor')} ({summary['pairs_skipped']} without two different responses)",
        *breadth_lines(summary),
        *repeatability_in_words(summary),
        *retest_lines(summary),
        *(f"warning: {warning}" for warning in summary["warnings"]),
        *(f"missing: {count} responses, {reason}" for reason, count in summary["failures"].items()),
        "",
        *(f"  {folder.path / name!s:<36} {what}" for name, what in _RESULTS.items() if (folder.path / name).exists()),
    ]


def _rollouts(summary: dict[str, Any]) -> str:
    """Says how many responses were drawn, and how many of them after the first draw of a prompt."""
    fresh = {"to confirm": summary.get("rollouts_confirm"), "of survivors again": summary.get("rollouts_retest")}
    return ", ".join(
        [counted(summary["rollouts"], "rollout"), *(f"{count} {why}" for why, count in fresh.items() if count)]
    )


def _spending_lines(spending: dict[str, Any] | None) -> list[str]:
    """Says where the tokens went, and what each engine did if there are several; no line if nothing was spent."""
    if spending is None or not spending["total"]["requests"]:
        return []
    total = spending["total"]
    tokens = total["prompt_tokens"] + total["completion_tokens"] or 1
    cached = f" ({total['cached_tokens']} of them cached)" if total["cached_tokens"] else ""
    cost = "" if total["cost"] is None else f"; cost {total['cost']:.4g}"
    return [
        f"{total['prompt_tokens']} prompt tokens{cached}; of all tokens {total['tokens_rejected'] / tokens:.0%} went"
        f" to prompts that were rejected, {total['tokens_gated'] / tokens:.0%} to proposals turned away{cost}",
        *_engine_lines(spending.get("engines", [])),
    ]


def _engine_lines(engines: list[dict[str, Any]]) -> list[str]:
    """Says what each engine did, if there is more than one."""
    if len(engines) < 2:
        return []
    lines = []
    for row in engines:
        idle = "–" if row["idle_fraction"] is None else f"{row['idle_fraction']:.1%}"
        cost = "" if row["cost"] is None else f", cost {row['cost']:.4g}"
        lines.append(
            f"{' and '.join(row['roles'])}: {row['engine']}, {row['requests']} requests, {row['prompt_tokens']} prompt"
            f" and {row['completion_tokens']} completion tokens, {row['slots']} slots idle {idle}{cost}"
        )
    return lines


def _ending(stop_reason: str | None) -> str:
    if stop_reason is None:
        return "so far:"
    return "finished:" if stop_reason == "generations" else f"stopped ({stop_reason}):"


_RESULTS = {
    "survivors.parquet": "prompts that passed, with chosen and rejected response and lineage",
    "pairs.jsonl": "preference pairs in TRL's conversational form",
    "generations": "every candidate of every generation, the rejected ones with the reason",
    "responses": "every response drawn, with its reward and length, by generation",
    "thresholds.json": "the cuts, to be used again by `fittest filter`",
    "logbook.parquet": "cuts, pass rates and selection intensity by generation",
    "summary.json": "counts, tokens, seconds, warnings",
    "spending.json": "tokens, slot time and cost by generation and operator",
    "card.md": "data card: licences, sources, lineage",
}
