"""The plots of docs/performance.md, as PNG, made from a run's JSON document. Does not belong here: text and tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.cases import fan_out, latency, stages, throughput

matplotlib.use("Agg")

import matplotlib.pyplot as plt

OURS, THEIRS, THIRD = "#1f6feb", "#8c959f", "#d29922"
CARRIED = 0.95
"""A load is carried when this part of it arrives."""
Plot = Callable[["Run", Any], None]


class Run:
    """The medians of a run, by benchmark, side and metric."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._benchmarks = document["benchmarks"]

    def sides(self, benchmark: str) -> dict[str, dict[str, list[float]]]:
        found: dict[str, dict[str, list[float]]] = self._benchmarks.get(benchmark, {}).get("sides", {})
        return found

    def median(self, benchmark: str, side: str, metric: str) -> float | None:
        values = self.sides(benchmark).get(side, {}).get(metric)
        return statistics.median(values) if values else None

    def line(self, benchmark: str, points: Sequence[tuple[float, str, str]]) -> tuple[list[float], list[float]]:
        """(x, y) of those points (x, side, metric) that were measured."""
        there = [(x, y) for x, side, metric in points if (y := self.median(benchmark, side, metric)) is not None]
        return [x for x, _ in there], [y for _, y in there]


def draw(document: dict[str, Any], folder: Path) -> list[str]:
    """Writes every plot that the run has figures for; their names, without .png."""
    run, drawn = Run(document), []
    folder.mkdir(parents=True, exist_ok=True)
    for name, (needs, columns, plot) in PLOTS.items():
        if not all(run.sides(benchmark) for benchmark in needs):
            continue
        figure, axes = plt.subplots(1, columns, figsize=(10, 4.2), dpi=110, layout="constrained")
        plot(run, axes)
        for one in axes if columns > 1 else [axes]:
            one.grid(alpha=0.3)
            one.set_axisbelow(True)
            one.spines[["top", "right"]].set_visible(False)
        # Without the version and date of the writer, so that the same figures make the same file.
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
        plt.close(figure)
        drawn.append(name)
    return drawn


def _throughput(run: Run, axes: Any) -> None:
    by_peer, by_payload = axes
    rates = {side: run.median("N1.flat", side, "rate") for side in run.sides("N1.flat")}
    peers = sorted((rate, side) for side, rate in rates.items() if rate is not None)
    by_peer.barh([side for _, side in peers], [rate for rate, _ in peers], color=[_color(side) for _, side in peers])
    by_peer.set(title="90-byte maps, by peer", xlabel="messages/s (log)", xscale="log")
    for place, (rate, _) in enumerate(peers):
        by_peer.annotate(f"{rate:,.0f}", (rate, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    by_peer.margins(x=0.25)
    payloads = ["16B", "flat", "nested", "1kB", "64kB", "1MB"]
    sides = [peer.name for peer in (throughput.ZPIPE, throughput.CBOR2, throughput.ORMSGPACK)]
    for number, side in enumerate(sides):
        points = [(n + 0.27 * (number - 1), _of(run, payload, side)) for n, payload in enumerate(payloads)]
        there = [(x, y) for x, y in points if y is not None]
        by_payload.bar(
            [x for x, _ in there], [y for _, y in there], 0.25, label=side, color=(OURS, THEIRS, THIRD)[number]
        )
    by_payload.set(title="by payload", ylabel="messages/s (log)", yscale="log")
    by_payload.set_xticks(range(len(payloads)), payloads)
    by_payload.margins(y=0.3)
    by_payload.legend(frameon=False, fontsize=8, loc="upper right")


def _of(run: Run, payload: str, side: str) -> float | None:
    return run.median(f"N1.{payload}", side, "rate")


def _color(side: str) -> str:
    return OURS if side.startswith("zpipe") else THEIRS


def _latency(run: Run, axis: Any) -> None:
    for peer, color in ((latency.ZPIPE.name, OURS), (latency.BY_HAND.name, THEIRS)):
        for metric, style in (("p50_us", "o-"), ("p99_us", "s--")):
            x, y = run.line("N2.curve", [(rate, side, metric) for rate, side in _up_to_saturation(run, peer)])
            axis.plot(x, [us / 1000 for us in y], style, color=color, label=f"{peer}, {metric[:3]}", markersize=4)
    axis.set(
        title="latency against load, to saturation",
        xlabel="messages/s that arrived (log)",
        ylabel="ms from source to sink (log)",
        xscale="log",
        yscale="log",
    )
    axis.legend(frameon=False)


def _up_to_saturation(run: Run, peer: str) -> list[tuple[float, str]]:
    """(messages a second that arrived, side) up to the first load that the peer could not carry."""
    points = []
    for rate in latency.CURVE:
        side = f"{peer} at {rate:,}/s"
        carried = run.median("N2.curve", side, "rate")
        if carried is None:
            continue
        points.append((carried, side))
        if carried < CARRIED * rate:
            break
    return points


def _cost(run: Run, axes: Any) -> None:
    by_instances, by_stages = axes
    for side, color in (("zpipe", OURS), ("pyzmq + cbor2", THEIRS)):
        x, y = run.line("N13.cpu", [(n, side, f"cpu_{n}_us") for n in fan_out.INSTANCES])
        by_instances.plot(x, y, "o-", color=color, label=side)
        counts = (stages.SHORT, stages.MIDDLE, stages.LONG)
        x, y = run.line("N11", [(n, f"{side}, {n} stages", "cpu_stage_us") for n in counts])
        by_stages.plot(x, y, "o-", color=color, label=side)
    by_instances.set(
        title="full load, by instances of the middle stage", xlabel="instances", ylabel="us CPU a message, all stages"
    )
    by_stages.set(
        title=f"{stages.RATE} messages/s, by stages in a row", xlabel="stages", ylabel="us CPU a message, each stage"
    )
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)


PLOTS: dict[str, tuple[tuple[str, ...], int, Plot]] = {
    "throughput": (("N1.flat",), 2, _throughput),
    "latency": (("N2.curve",), 1, _latency),
    "cost": (("N13.cpu", "N11"), 2, _cost),
}
"""By name: the benchmarks it needs, how many graphs it has side by side, and what draws it."""
