"""One table of a config while it is read. It knows which keys were asked for, so the rest are mistakes.

May live here: reading keys into typed values with a report of what is wrong. It knows no key by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from zpipe.config.expansion import UNSET
from zpipe.config.lines import KeyPath
from zpipe.config.mistakes import Mistakes, shown
from zpipe.config.values import Reader
from zpipe.plugin import nearest_name

T = TypeVar("T")


class ConfigTable:
    def __init__(self, report: Mistakes, path: KeyPath, values: Mapping[str, Any]) -> None:
        self.report = report
        self.path = path
        self.values = values
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str, read: Reader[T], default: T) -> T:
        """The value of `key`; `default` where it is absent, and where it is wrong, which is then on the report."""
        self._asked.add(key)
        if key not in self.values or self.values[key] is UNSET:
            return default
        try:
            return read(self.values[key])
        except ValueError as problem:
            self.report.add((*self.path, key), str(problem), given=self.values[key])
            return default

    def require(self, key: str, read: Reader[T], stand_in: T) -> T:
        if key not in self.values:
            self._asked.add(key)
            self.report.add((*self.path, key), "is required")
        return self.get(key, read, stand_in)

    def get_list(self, key: str, read: Reader[T]) -> list[T]:
        """The values of a list, or of the single value that stands in place of one. Wrong ones are left out."""
        self._asked.add(key)
        given = self.values.get(key, [])
        if given == [] and key in self.values:
            self.report.add((*self.path, key), "must not be an empty list; leave the key out", given=given)
        found = []
        for index, element in enumerate(given if isinstance(given, list) else [given]):
            if element is UNSET:
                continue
            try:
                found.append(read(element))
            except ValueError as problem:
                self.report.add((*self.path, key, index), str(problem), given=element)
        return found

    def table(self, key: str) -> ConfigTable:
        """The table at `key`; an empty one where it is absent or something else."""
        self._asked.add(key)
        path = (*self.path, key)
        given = self.values.get(key, {})
        if isinstance(given, dict):
            return ConfigTable(self.report, path, given)
        if given is not UNSET:
            self.report.add(path, f"must be a table, not {shown(given)}", given=given)
        return ConfigTable(self.report, path, {})

    def know(self, *keys: str) -> None:
        """Allows keys that are read elsewhere, or only where they are given."""
        self._asked.update(keys)

    def finish(self, later: frozenset[str] = frozenset()) -> None:
        """Reports the keys that nobody asked for. `later`: those of the design that this version does not have."""
        for key, given in self.values.items():
            if key in self._asked:
                continue
            allowed = f"allowed: {', '.join(sorted(self._asked))}"
            if key in later:
                problem, near = f"is not available in this version; {allowed}", ""
            else:
                problem, near = f"is not a key here; {allowed}", nearest_name(key, self._asked)
            self.report.add((*self.path, key), problem, given=given, nearest=near)
