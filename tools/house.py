"""Prints how the modules of fittest depend on each other: arrows, circles, and arrows that run back up.

Every folder is looked at as a house of its own. Its rooms are the files and folders in it, and an arrow leads from
one room to another when a module of the first imports a module of the second. Rooms stand above those that they
import from. Where rooms import each other in a circle, the thinnest arrow of the circle runs back up. All imports
count: those inside functions and those for type checkers as well.

    python tools/house.py

Exits with status 1 where there is a circle or an arrow back up, and where there is no arrow at all, since then the
package was not found rather than tidy.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grimp
import networkx as nx

ROOT = Path(__file__).resolve().parents[1]


class House(NamedTuple):
    """What one folder looks like from inside.

    Attributes:
        folder: its module name.
        rooms: the files and folders in it.
        arrows: how many pairs of rooms have an import from the first to the second.
        back_up: the arrows that run back up, as "a → b".
    """

    folder: str
    rooms: int
    arrows: int
    back_up: list[str]


def imports_of(package: str) -> nx.DiGraph[str]:
    """Returns the modules of a package, with an edge from each to every module of the package that it imports."""
    found = grimp.build_graph(package, cache_dir=None)
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(sorted(found.modules))
    for module in sorted(found.modules):
        graph.add_edges_from((module, other) for other in sorted(found.find_modules_directly_imported_by(module)))
    return graph


def circles_of(graph: nx.DiGraph[str]) -> list[list[str]]:
    """Returns the groups of modules that import each other in a circle, each sorted, the longest first."""
    groups = [sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1]
    return sorted(groups, key=lambda group: (-len(group), group))


def houses_of(graph: nx.DiGraph[str]) -> Iterator[House]:
    """Yields every folder that has modules in it, in the order of their names."""
    folders = sorted({module.rpartition(".")[0] for module in graph if "." in module})
    for folder in folders:
        rooms = {room for module in graph if (room := _room(module, folder)) is not None}
        arrows: nx.DiGraph[str] = nx.DiGraph()
        for one, other in graph.edges:
            ends = _room(one, folder), _room(other, folder)
            if None not in ends and ends[0] != ends[1]:
                imports = arrows.get_edge_data(*ends, default={"imports": 0})["imports"]
                arrows.add_edge(*ends, imports=imports + 1)
        count = arrows.number_of_edges()
        yield House(folder, len(rooms), count, list(_back_up(arrows)))


def _room(module: str, folder: str) -> str | None:
    """Returns the room of a folder that a module is in, or None for a module elsewhere."""
    if module == folder:
        return "__init__"
    return module[len(folder) + 1 :].partition(".")[0] if module.startswith(f"{folder}.") else None


def _back_up(arrows: nx.DiGraph[str]) -> Iterator[str]:
    """Takes the thinnest arrow out of each circle of rooms, until there is none, and yields those taken."""
    while not nx.is_directed_acyclic_graph(arrows):
        one, other = min(nx.find_cycle(arrows), key=lambda arrow: (arrows.edges[arrow[:2]]["imports"], arrow))[:2]
        arrows.remove_edge(one, other)
        yield f"{one} → {other}"


def public_names(folders: list[Path]) -> int:
    """Returns how many functions, classes and constants without an underscore stand at the top of modules."""
    names = 0
    for file in (file for folder in folders for file in folder.rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found = [node.name]
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found = [target.id for target in targets if isinstance(target, ast.Name)]
            else:
                continue
            names += sum(not name.startswith("_") for name in found)
    return names


def main(package: str = "fittest") -> int:
    """Prints the houses of a package on the path, and returns the exit status."""
    graph = imports_of(package)
    circles, houses = circles_of(graph), list(houses_of(graph))
    print(f"{'folder':<36}{'rooms':>6}{'arrows':>8}{'back up':>9}")
    for house in houses:
        # fittest.evo is the folder evo: the link in fittest/ adds nothing that a reader looks for
        path = house.folder.removeprefix(f"{package}.").replace(".", "/")
        counts = f"{path:<36}{house.rooms:>6}{house.arrows:>8}{len(house.back_up):>9}"
        print(f"{counts}  {'; '.join(house.back_up)}".rstrip())
    for circle in circles:
        print("circle: " + ", ".join(module.removeprefix(f"{package}.") for module in circle))
    back_up = sum(len(house.back_up) for house in houses)
    print(
        f"{graph.number_of_nodes()} modules, {graph.number_of_edges()} arrows among them,"
        f" {len(circles)} circles among files, {back_up} arrows back up"
    )
    return int(not graph.number_of_edges() or bool(circles) or bool(back_up))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    status = main()
    names = public_names([ROOT / name for name in ("evo", "fitness", "operators", "runs")])
    print(f"{names} public names at the top of modules")
    sys.exit(status)
