"""Reads the keys of one table of a config into typed values, and reports what is wrong with them. Does not belong here: any
key by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from zpipe.config.reading.key_lines import KeyPath
from zpipe.config.reading.mistakes import MistakeReport, shown
from zpipe.config.reading.values import Reader
from zpipe.config.reading.variable_expansion import UNSET
from zpipe.plugin_loading import nearest_name

T = TypeVar("T")


class TableReader:
    """The table at `path`. Wrong values are added to `report`."""

    def __init__(self, report: MistakeReport, path: KeyPath, values: Mapping[str, Any]) -> None:
        self.report = report
        self.path = path
        self.values = values
        self._known: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str, read: Reader[T], default: T) -> T:
        """The value of `key`, or `default` if the key is absent or its value is wrong."""
        self._known.add(key)
        if key not in self.values or self.values[key] is UNSET:
            return default
        try:
            return read(self.values[key])
        except ValueError as problem:
            self.report.add((*self.path, key), str(problem), given=self.values[key])
            return default

    def require(self, key: str, read: Reader[T], stand_in: T) -> T:
        """The value of a key that must be there; `stand_in` if it is absent or wrong."""
        if key not in self.values:
            self._known.add(key)
            self.report.add((*self.path, key), "is required")
        return self.get(key, read, stand_in)

    def get_list(self, key: str, read: Reader[T]) -> list[T]:
        """The values of a list, or the one value that was given in place of a list. Wrong values are left out."""
        self._known.add(key)
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

    def table(self, key: str) -> TableReader:
        """The table at `key`; an empty one if the key is absent or no table."""
        self._known.add(key)
        path = (*self.path, key)
        given = self.values.get(key, {})
        if isinstance(given, dict):
            return TableReader(self.report, path, given)
        if given is not UNSET:
            self.report.add(path, f"must be a table, not {shown(given)}", given=given)
        return TableReader(self.report, path, {})

    def allow(self, *keys: str) -> None:
        """Allows keys that are read elsewhere, or that are only read if they are there."""
        self._known.update(keys)

    def report_unknown_keys(self, later: frozenset[str] = frozenset()) -> None:
        """Reports the keys that were not read. `later` are keys of the design that this version does not have yet."""
        for key, given in self.values.items():
            if key in self._known:
                continue
            allowed = f"allowed: {', '.join(sorted(self._known))}"
            if key in later:
                problem, near = f"is not available in this version; {allowed}", ""
            else:
                problem, near = f"is not a key here; {allowed}", nearest_name(key, self._known)
            self.report.add((*self.path, key), problem, given=given, nearest=near)
