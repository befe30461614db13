"""What unit files say. Those of whole pipelines are kept in golden/; `python tests/systemd/test_units_text.py` writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from zpipe.config import load
from zpipe.units import install, text
from zpipe.units.names import Unit, config_path, parse

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs"
ENV = {"ZPIPE_RUNTIME_DIR": "/run/zpipe", "STDLIB": "/usr/lib/python3"}
GOLDEN = {"steady": CONFIGS / "steady.toml", "tcp": HERE / "golden" / "tcp.toml"}


def rendered(path: Path) -> str:
    """All files but the template, one after the other."""
    made = text.files(load(path, env=ENV, only=""), "", "/opt/zpipe/bin/zpipe")
    return "".join(f"==> {name}\n{made[name]}\n" for name in sorted(made) if name != text.TEMPLATE)


@pytest.mark.parametrize("name", GOLDEN)
def test_files_of_a_pipeline(name: str) -> None:
    assert rendered(GOLDEN[name]) == (HERE / "golden" / f"{name}.txt").read_text()


def test_template_is_shipped_with_the_path_that_is_replaced() -> None:
    shipped = install.template()
    assert f"\nExecStart={text.PROGRAM} stage --unit %i\n" in shipped
    made = text.files(load(CONFIGS / "steady.toml", env=ENV, only=""), shipped, "/srv/zpipe")[text.TEMPLATE]
    assert text.PROGRAM not in made
    assert made.count("/srv/zpipe ") == shipped.count(f"{text.PROGRAM} ") == 2


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("/opt/zpipe/bin/zpipe", "/opt/zpipe/bin/zpipe"),
        ("/srv/a b/zpipe", '"/srv/a b/zpipe"'),
        ("/srv/50%/$x/zpipe", '"/srv/50%%/$$x/zpipe"'),
        ('/srv/"q"\\/zpipe', '"/srv/\\"q\\"\\\\/zpipe"'),
    ],
)
def test_program_as_systemd_reads_it(program: str, line: str) -> None:
    assert text.quoted(program) == line


@pytest.mark.parametrize("program", ["zpipe", "/srv/a\nExecStart=/bin/evil"])
def test_program_that_no_unit_can_call(program: str) -> None:
    with pytest.raises(ValueError, match="absolute and of one line"):
        text.quoted(program)


def test_names_read_back() -> None:
    unit = Unit("my-pipe", "a_b", 12)
    assert parse(str(unit)) == unit
    assert unit.config == config_path("my-pipe") == Path("/etc/zpipe/my-pipe.toml")
    assert text.service_name(unit) == "zpipe@my-pipe.a_b.12.service"


def test_drop_ins_of_other_pipelines_are_not_ours() -> None:
    path = text.drop_in_path(text.service_name(Unit("steady", "store", 1)))
    assert text.is_drop_in_of("steady", path)
    assert not text.is_drop_in_of("stead", path)
    assert not text.is_drop_in_of("s.eady", path)
    assert not text.is_drop_in_of("steady", path.replace("50-pipeline", "60-mine"))


if __name__ == "__main__":
    for golden, config in GOLDEN.items():
        (HERE / "golden" / f"{golden}.txt").write_text(rendered(config))
