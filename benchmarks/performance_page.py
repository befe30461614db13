"""Puts the figures and plots of a run into docs/performance.md: `python -m benchmarks.performance_page RUN.json`.

Does not belong here: the page's own text, which stands in the page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.figures import Figure, Goal, Spread
from benchmarks.machine import ROOT

PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "performance"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def with_figures(page: str, run: dict[str, Any]) -> str:
    """The page with what stands between its two marks made anew."""
    before, found, rest = page.partition(BEGIN)
    _, also_found, after = rest.partition(END)
    if not (found and also_found):
        raise ValueError(f"the page has no {BEGIN} and {END} to put the figures between")
    return f"{before}{BEGIN}\n{figures_of(run)}\n{END}{after}"


def figures_of(run: dict[str, Any]) -> str:
    machine, versions = run["machine"], run["versions"]
    known = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    rounds = f"{run['rounds']} round" + ("s" if run["rounds"] != 1 else "")
    quick = ", `--quick`: windows of a second, so the figures are rough" if run["quick"] else ""
    lines = [
        f"Run of {run['at'][:10]}, commit `{run['commit']}`, {rounds}{quick}. {machine['cores']} cores of "
        f"{machine['processor']}, {machine['memory_gib']:g} GiB, {machine['system']}; load when it began: {machine['load']:.1f}.",
        f"Versions: {known}.",
        "",
        table.as_markdown([_figure(one) for one in run["figures"]]),
    ]
    return "\n".join(lines)


def _figure(found: dict[str, Any]) -> Figure:
    def spread(values: dict[str, float] | None) -> Spread | None:
        return None if values is None else Spread(**values)

    goal = found["goal"]
    made = None if goal is None else Goal(goal["sign"], goal["limit"], goal["of_ratio"])
    return Figure(**{**found, "goal": made, **{key: spread(found[key]) for key in ("zpipe", "reference", "ratio")}})


def main() -> int:
    from benchmarks import plots

    run = json.loads(Path(sys.argv[1]).read_text())
    PAGE.write_text(with_figures(PAGE.read_text(), run))
    drawn = plots.draw(run, PLOTS)
    print(f"{PAGE.relative_to(ROOT)}: {len(run['figures'])} figures, plots: {', '.join(drawn) or 'none'}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.performance_page RUN.json")
    sys.exit(main())
