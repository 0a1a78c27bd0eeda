"""Says how many survivors of a run would survive again, and what their metrics are worth without luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fittest.evo.records import RIP_METRICS
from fittest.fitness.intervals import wilson

if TYPE_CHECKING:
    from fittest.evo.records import Metrics
    from fittest.evo.retest import Retested

NO_CUTS = "who survives by Pareto rank has no cuts that a fresh draw could pass"


def retest_record(retested: Sequence[Retested] | None) -> dict[str, Any]:
    """Returns `retest` and `retest_metrics` of summary.json.

    A survivor was chosen because its values were high when it was drawn, so that they are too good on average (the
    winner's curse); those of a draw that decided nothing are not.

    Args:
        retested: the survivors that were drawn again; None if there was no re-test.

    Returns:
        `retest`: how many were drawn again, how many passed the cuts of their generations again, and that share with
        Wilson's 95 % interval; None without a re-test. `retest_metrics`: the means of m1, m2 and m3 of the same
        survivors as they are in survivors.parquet (`selected`) and in the fresh draw (`again`); None if no draw has
        metrics.
    """
    if retested is None:
        return {"retest": None, "retest_metrics": None}
    n, passed = len(retested), sum(each.draw.passed for each in retested)
    low, high = wilson(passed / n, n) if n else (None, None)
    retest = {"n": n, "passed": passed, "rate": passed / n if n else None, "low": low, "high": high}
    both = [(each.prompt.metrics, each.draw.metrics) for each in retested]
    known = [(before, after) for before, after in both if before is not None and after is not None]
    if not known:
        return {"retest": retest, "retest_metrics": None}
    selected, again = (_means(metrics) for metrics in zip(*known, strict=True))
    return {"retest": retest, "retest_metrics": {"selected": selected, "again": again}}


def _means(metrics: Sequence[Metrics]) -> dict[str, float]:
    return {name: fmean(getattr(each, name) for each in metrics) for name in RIP_METRICS}


def retest_lines(summary: Mapping[str, Any]) -> list[str]:
    """Describes the re-test of a run, for a person; no line without one.

    Args:
        summary: what summary.json holds.
    """
    retest, means = summary.get("retest"), summary.get("retest_metrics")
    why_not = summary.get("retest_note")
    if why_not:
        return [f"No survivor was drawn again: {why_not}."]
    if not retest or not retest["n"]:
        return []
    passed = f"{retest['rate']:.0%}, {100 * retest['low']:.0f} to {retest['high']:.0%}".replace("%", " %")
    said = [f"Of {_survivors(retest['n'])} drawn again, {retest['passed']} would survive again ({passed})."]
    if means:
        before, after = means["selected"], means["again"]
        said.append(
            f"Their mean m1 was {before['m1']:.3f} when they were selected and is {after['m1']:.3f} in the new draw;"
            f" m2 {before['m2']:.0f} and {after['m2']:.0f}; m3 {before['m3']:.3f} and {after['m3']:.3f}."
        )
    return said


def _survivors(count: int) -> str:
    return "1 survivor" if count == 1 else f"{count} survivors"
