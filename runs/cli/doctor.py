"""`fittest doctor`: what this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import click


@click.command("doctor")
def command() -> None:
    """Look at Python, packages, models, engine, embedder, device and disk."""
    from runs.doctor import examine

    marks = {True: "ok  ", False: "FAIL", None: "–   "}
    findings = examine()
    for finding in findings:
        click.echo(f"{marks[finding.ok]} {finding.name:<24} {finding.detail}")
        if finding.remedy:
            click.echo(f"     {'':<24} → {finding.remedy}")
    if any(finding.ok is False for finding in findings):
        raise SystemExit(1)
