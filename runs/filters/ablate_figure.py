"""Draws the figure of an ablation: it has one line for each filter and one panel for each column compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fittest.runs.output.atomic import write_text

if TYPE_CHECKING:
    import polars as pl

_PANELS = {
    "share": "kept",
    "overlap_with_rip": "overlap with RIP",
    "mean_m1": "m1, worst reward",
    "mean_m2": "m2, its length",
    "mean_m3": "m3, reward gap",
    "survive": "kept again",
    "audit_chosen": "audit reward, chosen",
    "audit_average": "audit reward, average",
}
_COLOURS = {
    "none": "#555555", "RIP": "#c1272d", "pair": "#e07b39", "one metric": "#2f6db3", "pairing": "#7a52a3",
    "length guard": "#3d8b6b", "baseline": "#8a6d3b",
}  # fmt: skip


def write_figure(table: pl.DataFrame, path: Path) -> None:
    """Writes the figure of an ablation's table as one HTML file that needs no network."""
    from plotly.subplots import make_subplots

    panels = {name: title for name, title in _PANELS.items() if name in table.columns}
    audited = any(name.startswith("audit") for name in panels)
    figure = make_subplots(
        rows=1, cols=len(panels), shared_yaxes=True, horizontal_spacing=0.012, subplot_titles=list(panels.values())
    )
    for group, colour in _COLOURS.items():
        rows = table.filter(table["group"] == group)
        for column, name in enumerate(panels, start=1):
            figure.add_trace(_dots(rows, name, group, colour, legend=column == 1), row=1, col=column)
    unfiltered = table.row(0, named=True)
    for column, name in enumerate(panels, start=1):
        if unfiltered[name] is not None:
            figure.add_vline(
                x=unfiltered[name], line={"color": "#bbbbbb", "width": 1, "dash": "dot"}, row=1, col=column
            )
        if name in ("share", "overlap_with_rip", "survive"):
            figure.update_xaxes(tickformat=".0%", range=[-0.05, 1.08], row=1, col=column)
    # upside down, since plotly counts from below: the first filter of the table stands on top
    figure.update_yaxes(
        range=[table.height - 0.4, -0.6], categoryorder="array", categoryarray=table["filter"].to_list(), dtick=1,
        gridcolor="#eeeeee",
    )  # fmt: skip
    figure.update_xaxes(gridcolor="#eeeeee", nticks=4)
    figure.update_annotations(font_size=13)
    figure.update_layout(
        title="What each filter keeps (dotted: no filter" + ("; bars: 95 % bootstrap interval)" if audited else ")"),
        height=190 + 21 * table.height,
        width=max(900, 250 + 190 * len(panels)),
        plot_bgcolor="white",
        font={"family": "system-ui, sans-serif", "size": 12},
        legend={"orientation": "h", "y": -0.04, "x": 0},
        margin={"l": 10, "r": 20, "t": 90, "b": 60},
    )
    write_text(path, figure.to_html(include_plotlyjs=True, config={"displaylogo": False}))


def _dots(rows: pl.DataFrame, name: str, group: str, colour: str, *, legend: bool) -> Any:
    from plotly.graph_objects import Scatter

    bars = None
    if f"{name}_low" in rows.columns:
        bars = {
            "type": "data",
            "symmetric": False,
            "array": (rows[f"{name}_high"] - rows[name]).to_list(),
            "arrayminus": (rows[name] - rows[f"{name}_low"]).to_list(),
            "thickness": 1,
            "width": 3,
        }
    return Scatter(
        x=rows[name].to_list(),
        y=rows["filter"].to_list(),
        mode="markers",
        marker={"color": colour, "size": 8},
        error_x=bars,
        name=group,
        legendgroup=group,
        showlegend=legend and rows.height > 0,
        customdata=rows["kept"].to_list(),
        hovertemplate="%{y}<br>%{x:.4g}<br>%{customdata} prompts<extra></extra>",
    )
