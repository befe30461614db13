"""What every plugin that reaches a service says before it does: the library that it needs, and where the service is.

Must not live here: a connection, which is `reconnect`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from zpipe import Traits
from zpipe_plugins.extras import require


class ServiceOptions:
    """Options that say where a service is."""

    def __post_init__(self) -> None:
        """Where the `__post_init__` of options ends."""

    @property
    def services(self) -> tuple[str, ...]:
        """As `zpipe.Traits` has them; none where the options do not say it."""
        return ()

    def problems(self) -> Iterable[tuple[str, str]]:
        """What only the library can find, as `check` has it."""
        return ()


OptionsT = TypeVar("OptionsT", bound=ServiceOptions)


class ServicePlugin(Generic[OptionsT]):
    """Stands before `Source`, `Map` or `Sink` among the bases of a plugin.

    extra, module  what brings the library, and what it is imported as
    divides        as in `zpipe.Traits`
    """

    extra: ClassVar[str]
    module: ClassVar[str]
    divides: ClassVar[bool] = False

    def check(self, options: OptionsT, config_dir: Path) -> Iterable[tuple[str, str]]:
        require(self.extra, self.module)
        return options.problems()

    def traits(self, options: OptionsT, config_dir: Path) -> Traits:
        return Traits(needs_network=True, services=options.services, divides=self.divides)


def address(scheme: str, host: str, port: int | str = "") -> str:
    """For `services`. `host` may be an address of IPv6, and without a port the one that is usual for the scheme is meant."""
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{port}" if port else f"{scheme}://{name}"
