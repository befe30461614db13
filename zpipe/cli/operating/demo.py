"""zpipe demo [QUESTION]: the example `index`, run and asked. Does not belong here: what runs, a config as any other."""

from __future__ import annotations

import os
import runpy
import shlex
import shutil
import sysconfig
from pathlib import Path

import click

import zpipe
from zpipe.cli.operating.run import supervise
from zpipe.cli.operating.run_report import exit_code, print_ledger
from zpipe.config import load
from zpipe.errors import ExitCode, OperatorError
from zpipe.folders import denied, unwritable
from zpipe.monitor.model.run_ledger import RunLedger
from zpipe.units import install

FOLDER = Path("zpipe-demo")
CONFIG, DATABASE, SEARCH = "index.toml", "index.db", "search.py"
_FILES = (CONFIG, "python_index.py", SEARCH)


@click.command()
@click.argument("question", default="priority queue")
def command(question: str) -> ExitCode:
    """Index the Python standard library into SQLite, by a pipeline of four processes, and search it for QUESTION.

    All of it is in the folder zpipe-demo, here: the config with its two programs, the database, and what the stages keep.
    A config or a program that is there already is run as it is, so it may be changed; the database is made anew.
    """
    folder = FOLDER.absolute()
    config = folder / CONFIG
    stdlib = os.environ.get("STDLIB") or sysconfig.get_path("stdlib")
    _write_files(folder, stdlib)
    env = {**os.environ, "STDLIB": stdlib, "INDEX_DB": str(folder / DATABASE), "ZPIPE_STATE_DIR": str(folder / "state")}
    pipeline = load(config, env=env)
    program, shown = _program(), shlex.quote(str(config))
    ledger = RunLedger(pipeline, here=pipeline.instances_on(""))
    click.echo(f"zpipe: reads {stdlib}; to look at it meanwhile: {program} monitor {shown}", err=True)
    code, result = supervise(pipeline, env, ledger, fresh=True)
    print_ledger(result)
    code = exit_code(code, ledger, result)
    if code is not ExitCode.DONE:
        return code
    click.echo()
    found = runpy.run_path(str(folder / SEARCH))["main"]([str(folder / DATABASE), question])
    click.echo()
    click.echo(f"the config:         {config}")
    click.echo(f"while it runs:      {program} monitor {shown}    (in a second terminal)")
    click.echo(
        f"what to try next:   {program} demo 'read file', and a stage of your own: {program} new loud --single-file"
    )
    return ExitCode(found)


def _write_files(folder: Path, stdlib: str) -> None:
    """Those that are not there. The config of the copy needs no variable. Removes the database, which the run is to make."""
    try:
        folder.mkdir(exist_ok=True)
        for name in _FILES:
            if not (folder / name).exists():
                text = (_examples() / name).read_text("utf-8")
                (folder / name).write_text(text.replace("${STDLIB}", f"${{STDLIB:-{stdlib}}}"), "utf-8")
        for suffix in ("", "-wal", "-shm"):
            (folder / f"{DATABASE}{suffix}").unlink(missing_ok=True)
    except PermissionError as error:
        raise denied(folder, error, "make the demo in") from error
    except OSError as error:
        raise unwritable(folder, error) from error


def _examples() -> Path:
    """They are in the wheel, or beside the package in a checkout. Raises OperatorError."""
    package = Path(zpipe.__file__).parent
    for folder in (package / "examples", package.parent / "configs"):
        if (folder / CONFIG).is_file():
            return folder
    raise OperatorError(f"{package / 'examples'} is missing from this installation of zpipe: install it once more")


def _program() -> str:
    """What a shell has to be told, to call this zpipe."""
    ours = install.program()
    found = shutil.which("zpipe")
    return "zpipe" if found is not None and Path(found).samefile(ours) else shlex.quote(ours)
