"""zpipe graph CONFIG|PIPELINE"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from zpipe.cli.parameters import find_target, target_argument
from zpipe.config import PipelineConfig, load
from zpipe.config.graph_text import dot, mermaid
from zpipe.errors import ExitCode


@click.command()
@target_argument
@click.option("--format", "language", type=click.Choice(["mermaid", "dot"]), default="mermaid", show_default=True)
@click.option("--file", "from_file", is_flag=True, help="What the file says, whatever runs.")
@click.option("--json", "as_json", is_flag=True, help="Nodes and links as one JSON value.")
def command(config: Path, language: str, from_file: bool, as_json: bool) -> ExitCode:
    """Print a pipeline as a graph: as it runs, or as its config says where it does not run."""
    # The graph needs none of the plugins, so none is imported.
    pipeline = load(config, only="") if from_file else find_target(config).config
    if as_json:
        click.echo(json.dumps(_graph(pipeline)))
    else:
        click.echo(dot(pipeline) if language == "dot" else mermaid(pipeline), nl=False)
    return ExitCode.DONE


def _graph(pipeline: PipelineConfig) -> dict[str, Any]:
    nodes = [
        {
            "name": stage.name,
            "plugin": stage.runs,
            "instances": stage.instances,
            "hosts": list(stage.hosts),
            "queue": dataclasses.asdict(stage.queue) if stage.inputs else None,
            "batch": dataclasses.asdict(stage.batch) if stage.batch else None,
        }
        for stage in pipeline.stages.values()
    ]
    links = [
        {"from": entry.stage, "to": stage.name, "outlet": entry.outlet}
        for stage in pipeline.stages.values()
        for entry in stage.inputs
    ]
    return {"pipeline": pipeline.name, "nodes": nodes, "links": links}
