"""Says what an export leaves out and how it is arranged, and which format can use which of these options."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fittest.evo.errors import FittestError
from fittest.runs.output.exporters import EXPORTERS, MIN_GAP, PAIRING, REFERENCE, TRUNCATED, Exporter

if TYPE_CHECKING:
    from fittest.fitness.reference.pairs import ReferenceModel


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Holds the options of one export.

    Attributes:
        drop_truncated: whether survivors are left out whose chosen answer was cut at max_tokens; None means that the
            format decides, and formats of pairs leave them out.
        min_gap: the least reward gap of a pair.
        pairing: the name of the pairing by which pairs are chosen anew; None keeps those of the run.
        split: the share of survivors that goes into a second file, for testing.
        reference: returns the model that gives the log-probabilities of both answers, and is called once all else is
            known to be right; None writes none.
    """

    drop_truncated: bool | None = None
    min_gap: float | None = None
    pairing: str | None = None
    split: float | None = None
    reference: Callable[[], ReferenceModel] | None = None

    def refuse_unused(self, to: str, exporter: Exporter) -> None:
        """Checks that the format can use every option that was given, and that numbers are in their range.

        Args:
            to: the name of the format.
            exporter: the format.

        Raises:
            FittestError: it cannot, or one is not.
        """
        given = {
            TRUNCATED: self.drop_truncated is not None,
            MIN_GAP: self.min_gap is not None,
            PAIRING: self.pairing is not None,
            REFERENCE: self.reference is not None,
        }
        for option, used in given.items():
            if used and option not in exporter.options:
                raise FittestError(f"--to {to} cannot use {_spoken(option)}; {_formats_with(option)} can")
        if self.min_gap is not None and not math.isfinite(self.min_gap):
            raise FittestError(f"--min-gap {self.min_gap}: the least gap must be a finite number")
        if self.split is not None and not 0 < self.split < 1:
            raise FittestError(f"--split {self.split:g}: the share for testing must lie between 0 and 1, such as 0.05")


def _spoken(option: str) -> str:
    return "--drop-truncated or --keep-truncated" if option == TRUNCATED else option


def _formats_with(option: str) -> str:
    return ", ".join(sorted(name for name, exporter in EXPORTERS.built_in.items() if option in exporter.options))
