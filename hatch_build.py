"""Writes the software bill of materials that goes into the wheel (PEP 770): CycloneDX, in .dist-info/sboms/.

It names what fittest needs, in the versions that the tests ran with. It needs nothing but Python itself, since it runs
wherever the wheel is built, and it holds no clock and no random number, so that a wheel can be built again.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class BillOfMaterials(BuildHookInterface):  # type: ignore[misc]
    """Adds the bill to the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Writes the bill before the wheel is put together."""
        file = Path(self.directory) / "fittest.cdx.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        bill = bill_of_materials(self.metadata.core, (Path(self.root) / "constraints.txt").read_text(encoding="utf-8"))
        file.write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
        build_data["sbom_files"].append(str(file.relative_to(self.root) if file.is_relative_to(self.root) else file))


def bill_of_materials(core: Any, constraints: str) -> dict[str, Any]:
    """Returns the bill as CycloneDX has it.

    Args:
        core: the metadata of the project, as hatchling reads them.
        constraints: the content of constraints.txt.
    """
    pins = {_normal(name): version for name, version in _PIN.findall(constraints)}
    needed = {_normal(_named(line)) for line in core.dependencies}
    optional = {_normal(_named(line)) for lines in core.optional_dependencies.values() for line in lines}
    itself = f"pkg:pypi/{core.name}@{core.version}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                **_component(core.name, core.version),
                "licenses": [{"license": {"id": core.license_expression}}],
                "description": core.description,
            },
        },
        "components": [
            # what the extras alone need, and what those need, a user need not have
            {**_component(name, pins[name]), "scope": "required" if name in needed else "optional"}
            for name in sorted(pins)
        ],
        "dependencies": [
            {
                "ref": itself,
                "dependsOn": [f"pkg:pypi/{name}@{pins[name]}" for name in sorted((needed | optional) & pins.keys())],
            }
        ],
    }


def _component(name: str, version: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{name}@{version}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _named(requirement: str) -> str:
    found = _NAME.match(requirement)
    assert found is not None
    return found[0]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
