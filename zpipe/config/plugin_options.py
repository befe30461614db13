"""Fills the options dataclass of a plugin from its `options` table, as strictly as zpipe's own keys are read. Does not
belong here: any key or plugin by name."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from datetime import date, datetime, time
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from zpipe.config.reading import values
from zpipe.config.reading.key_lines import KeyPath
from zpipe.config.reading.mistakes import MistakeReport, quoted, shown
from zpipe.config.reading.variable_expansion import UNSET, Expanded, leaves, plain
from zpipe.option_types import Quantity, Secret
from zpipe.plugin_loading import nearest_name

_WORDS: dict[Any, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    list: "a list",
    tuple: "a list",
    dict: "a table",
    Any: "anything",
    datetime: "a date and time",
    date: "a date",
    time: "a time of day",
    Quantity.DURATION: 'a time such as "30s"',
    Quantity.SIZE: 'a size such as "64MiB"',
    Secret: 'a secret, by "${VAR}", "${file:PATH}" or "${credential:NAME}"',
}
_SCALARS: dict[Any, values.Reader[Any]] = {
    int: values.integer,
    float: values.number,
    bool: values.boolean,
    Quantity.DURATION: values.duration(zero=True),
    Quantity.SIZE: values.size_or_zero,
}
_FAILED: Final = object()


def fill(options_type: type, given: Mapping[str, Any], path: KeyPath, report: MistakeReport) -> Any:
    """An `options_type` made from the table `given` at `path`. None if the table has mistakes, which are then in the report."""
    made = _dataclass(options_type, given, path, report)
    return None if made is _FAILED else made


def _dataclass(cls: Any, given: Mapping[str, Any], path: KeyPath, report: MistakeReport) -> Any:
    try:
        hints = _hints(cls)
    except Exception as error:
        report.add(path, f"the plugin's options type {cls.__name__} cannot be read: {type(error).__name__}: {error}")
        return _FAILED
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    arguments = {}
    for name, field in fields.items():
        if name in given:
            arguments[name] = _value(hints[name], given[name], (*path, name), report)
        elif field.default is MISSING and field.default_factory is MISSING:
            report.add((*path, name), f"is required: {describe(hints[name])}")
            arguments[name] = _FAILED
    for key in given.keys() - fields.keys():
        problem = f"is not an option here; allowed: {', '.join(fields) or 'none'}"
        report.add((*path, key), problem, given=given[key], nearest=nearest_name(key, fields))
    if _FAILED in arguments.values() or given.keys() - fields.keys():
        return _FAILED
    try:
        return cls(**arguments)
    except ValueError as error:
        report.add(path, str(error), given=dict(given))
    except Exception as error:
        report.add(path, f"is refused by the plugin: {type(error).__name__}: {error}", given=dict(given))
    return _FAILED


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


@dataclasses.dataclass(frozen=True)
class Option:
    """What is to be known of an option before it is written into a config.

    default  as a config would have it; None if there is none
    help     what its type says of it: the text in `Annotated[T, "…"]`
    options  those of the table that it is, or that each of its elements is
    """

    name: str
    type: str
    required: bool
    default: Any
    help: str
    options: list[Option]


def options_of(cls: Any) -> list[Option]:
    """The options that a dataclass declares, in its order. Raises what reading its types raises."""
    return _nested_options(cls, ())


def _nested_options(cls: Any, within: tuple[Any, ...]) -> list[Option]:
    found = []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        hint = _hints(cls)[field.name]
        required = field.default is MISSING and field.default_factory is MISSING
        default = None
        if not required:
            default = field.default_factory() if field.default_factory is not MISSING else field.default
        inner = _table_in(hint)
        nested = _nested_options(inner, (*within, cls)) if inner is not None and inner not in (*within, cls) else []
        found.append(Option(field.name, describe(hint), required, _written(hint, default), _help(hint), nested))
    return found


def _table_in(hint: Any) -> Any:
    """The dataclass that a value of the type is, or has elements of. None if it has none."""
    hint = _bare(hint)
    if dataclasses.is_dataclass(hint):
        return hint
    return next(filter(None, map(_table_in, get_args(hint))), None)


def _help(hint: Any) -> str:
    notes = hint.__metadata__ if get_origin(hint) is Annotated else ()
    return next((note for note in notes if isinstance(note, str)), "")


def _written(hint: Any, value: Any) -> Any:
    """A default as a config would have it."""
    hint = _bare(hint)
    arms = {_bare(arm) for arm in get_args(hint)} if get_origin(hint) in (Union, types.UnionType) else {hint}
    if isinstance(value, int | float) and not isinstance(value, bool):
        if Quantity.DURATION in arms:
            return values.show_duration(value)
        if Quantity.SIZE in arms:
            return values.show_size(int(value))
    if isinstance(value, Enum):
        return next((name for name, member in _choices(type(value)).items() if member is value), value.name)
    return value


def _bare(hint: Any) -> Any:
    """A type without its help text. A duration and a size are what marks them."""
    if get_origin(hint) is not Annotated:
        return hint
    return next((note for note in hint.__metadata__ if isinstance(note, Quantity)), hint.__origin__)


def _value(hint: Any, given: Any, path: KeyPath, report: MistakeReport) -> Any:
    """`given` as a value of the type `hint`, or _FAILED."""
    hint = _bare(hint)
    if given is UNSET:
        return _FAILED
    if hint is Any or hint is object:
        return _FAILED if _holds_unset(given) else plain(given)
    origin = get_origin(hint) or hint
    if origin in (Union, types.UnionType):
        return _union(hint, given, path, report)
    if origin in (list, tuple, Sequence) and isinstance(given, list):
        return _sequence(hint, origin, given, path, report)
    if origin in (dict, Mapping) and isinstance(given, dict):
        return _mapping(hint, given, path, report)
    if dataclasses.is_dataclass(hint) and isinstance(given, dict):
        return _dataclass(hint, given, path, report)
    try:
        return _scalar(hint, given)
    except ValueError as problem:
        given = _fit_to_show(hint, given)
        report.add(path, str(problem), given=given, nearest=_nearest_choice(hint, given))
        return _FAILED


def _scalar(hint: Any, given: Any) -> Any:
    if hint is Secret:
        return _secret(given)
    if hint in (str, Path) and isinstance(given, str):
        return hint(str(given))
    if hint in _SCALARS:
        return _SCALARS[hint](given)
    if get_origin(hint) is Literal:
        bare = plain(given)
        for choice in get_args(hint):
            # The types are compared too, since True == 1.
            same = bare == choice and type(bare) is type(choice)
            if same or (isinstance(given, Expanded) and bare == str(choice)):
                return choice
    if _is_enum(hint):
        for name, member in _choices(hint).items():
            if isinstance(given, str) and str(given) == name:
                return member
    if hint in (datetime, date, time) and type(given) is hint:
        return given
    raise values.refused(describe(hint), given)


def _secret(given: Any) -> Secret:
    if not isinstance(given, Expanded):
        raise ValueError(f"must be {describe(Secret)}, and not stand in the file")
    if not given:
        raise ValueError(f"must not be empty, as {given.template} is")
    return Secret(str(given))


def _fit_to_show(hint: Any, given: Any) -> Any:
    """What a mistake may show of a value: nothing of one that stands where a secret belongs."""
    return "***" if _takes_secret(hint) and not isinstance(given, Expanded) else given


def _takes_secret(hint: Any) -> bool:
    return _bare(hint) is Secret or any(map(_takes_secret, get_args(_bare(hint))))


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _choices(hint: type[Enum]) -> dict[str, Enum]:
    """The members by what a config has to write for each: its value if that is text, else its name."""
    return {
        member.value if isinstance(member.value, str) else name: member for name, member in hint.__members__.items()
    }


def _union(hint: Any, given: Any, path: KeyPath, report: MistakeReport) -> Any:
    if given is None and types.NoneType in get_args(hint):
        return None  # read from JSON (a config record); TOML has no null
    arms = [arm for arm in get_args(hint) if arm is not types.NoneType]
    if len(arms) == 1:
        return _value(arms[0], given, path, report)
    if _holds_unset(given):
        return _FAILED
    for arm in arms:
        made = _value(arm, given, path, MistakeReport("", {}))
        if made is not _FAILED:
            return made
    given = _fit_to_show(hint, given)
    report.add(path, str(values.refused(describe(hint), given)), given=given)
    return _FAILED


def _sequence(hint: Any, origin: Any, given: list[Any], path: KeyPath, report: MistakeReport) -> Any:
    arms = get_args(hint) or (Any,)
    if origin is tuple and get_args(hint) and arms[-1] is not Ellipsis:
        if len(given) != len(arms):
            report.add(path, f"must be a list of exactly {len(arms)}, not of {len(given)}", given=given)
            return _FAILED
        hints = list(arms)
    else:
        hints = [arms[0]] * len(given)
    made = [_value(h, element, (*path, i), report) for i, (h, element) in enumerate(zip(hints, given, strict=True))]
    if _FAILED in made:
        return _FAILED
    return tuple(made) if origin is tuple else made


def _mapping(hint: Any, given: dict[str, Any], path: KeyPath, report: MistakeReport) -> Any:
    _, element = get_args(hint) or (str, Any)
    made = {key: _value(element, inner, (*path, key), report) for key, inner in given.items()}
    return _FAILED if _FAILED in made.values() else made


def _holds_unset(given: Any) -> bool:
    return any(leaf is UNSET for _, leaf in leaves(given))


def _nearest_choice(hint: Any, given: Any) -> str:
    if isinstance(given, Expanded) and given.secrets:
        return ""
    if _is_enum(hint) and isinstance(given, str):
        return nearest_name(given, _choices(hint))
    if get_origin(hint) is not Literal or not isinstance(given, str):
        return ""
    return nearest_name(given, [choice for choice in get_args(hint) if isinstance(choice, str)])


def describe(hint: Any) -> str:
    """A type in words that somebody who writes a config understands."""
    hint = _bare(hint)
    origin, arms = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(quoted(c) if isinstance(c, str) else shown(c) for c in arms)
    if _is_enum(hint):
        return " or ".join(map(quoted, _choices(hint)))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arm) for arm in arms if arm is not types.NoneType)
    if origin in (list, tuple, Sequence) and arms:
        if origin is tuple and arms[-1] is not Ellipsis:
            return f"a list of exactly {len(arms)}"
        return f"a list, each {describe(arms[0])}"
    if origin in (dict, Mapping) and arms:
        return f"a table, each {describe(arms[1])}"
    if dataclasses.is_dataclass(hint):
        return "a table"
    return _WORDS.get(origin or hint) or f"of a type that a config cannot hold ({hint})"
