"""`python`: calls a function of your own with each payload, or with a list of them if the stage has a `batch` table."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from zpipe import DROP, Context, Message, Traits, hookimpl
from zpipe.errors import OperatorError

_FORMS = "allowed are 'module:name' and 'path.py:name'"


@dataclass
class Options:
    """function: `module:name` or `path.py:name`, relative to the config file;  needs_network: whether it opens connections."""

    function: str
    needs_network: bool = False

    def __post_init__(self) -> None:
        where, colon, name = self.function.rpartition(":")
        if not colon or not where or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"function is {self.function!r}: {_FORMS}")
        if not where.endswith(".py") and not all(part.isidentifier() for part in where.split(".")):
            raise ValueError(f"function is {self.function!r}, and {where!r} is no module's name: {_FORMS}")


@hookimpl
def zpipe_options() -> type:
    return Options


@hookimpl
def zpipe_check(options: Options, config_dir: Path) -> list[tuple[str, str]]:
    try:
        _resolve(options.function, config_dir)
    except OperatorError as error:
        return [("function", str(error))]
    return []


@hookimpl
def zpipe_traits(options: Options) -> Traits:
    return Traits(needs_network=options.needs_network)


@hookimpl
def zpipe_open(context: Context) -> None:
    function = _resolve(context.options.function, context.config_dir)
    answer = _batch_answer if context.batching else _answer
    context.scratch = _caller(function, answer, context.last)


@hookimpl
def zpipe_process(message: Message, context: Context) -> Any:
    return context.scratch(message.payload)


@hookimpl
def zpipe_process_batch(messages: list[Message], context: Context) -> Any:
    return context.scratch([message.payload for message in messages])


# What the function's result means


def _answer(result: Any, payload: Any) -> Any:
    """A list is one payload here: only a generator is many. In a Message it cannot be taken for many."""
    return Message(result) if isinstance(result, (list, tuple)) else result


def _batch_answer(result: Any, payloads: list[Any]) -> Any:
    if isinstance(result, (list, tuple)):
        return [_answer(entry, None) for entry in result]
    if result is DROP:
        return [DROP] * len(payloads)
    if result is not None and (isinstance(result, (dict, str, bytes, Message)) or not isinstance(result, Iterable)):
        raise TypeError(
            f"the function returned a {type(result).__name__} for a batch of {len(payloads)}: expected is a list with "
            "one result for each payload, or a generator"
        )
    return result


def _caller(function: Callable[[Any], Any], answer: Callable[[Any, Any], Any], last: bool) -> Callable[[Any], Any]:
    if _is_a(inspect.iscoroutinefunction, function):

        async def call_async(argument: Any) -> Any:
            return answer(await function(argument), argument)

        return call_async
    if _is_a(inspect.isasyncgenfunction, function):

        async def collect(argument: Any) -> Iterator[Any]:
            # an iterator, not the list: a list would be one payload, or one to one
            return iter([entry async for entry in function(argument)])

        return collect
    plain = None if answer is _batch_answer else dict  # the usual result needs no look: this is a hot path
    if last:

        def call_last(argument: Any) -> None:
            result = function(argument)
            if inspect.isgenerator(result):
                deque(result, maxlen=0)  # nobody else takes from it, and its work is done only when somebody does

        return call_last

    def call(argument: Any) -> Any:
        result = function(argument)
        return result if type(result) is plain else answer(result, argument)

    return call


def _is_a(test: Callable[[Any], bool], function: Callable[[Any], Any]) -> bool:
    """Also for an object whose class has such a `__call__`."""
    return test(function) or (not inspect.isroutine(function) and test(type(function).__call__))


# Finding the function


def _resolve(spec: str, config_dir: Path) -> Callable[[Any], Any]:
    where, _, dotted = spec.rpartition(":")
    is_file = where.endswith(".py")
    module = _load_file(spec, config_dir / where) if is_file else _load_module(spec, where, config_dir)
    found: Any = module
    for name in dotted.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            known = [known for known in dir(found) if not known.startswith("__")]
            raise OperatorError(f"function {spec!r}: {where} has no {dotted!r}{_hint(name, known)}") from None
    if not callable(found):
        raise OperatorError(f"function {spec!r}: {dotted} is a {type(found).__name__}, which cannot be called")
    _check_arguments(spec, found)
    return found  # type: ignore[no-any-return]


def _check_arguments(spec: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return  # some built-in functions do not say what they take
    try:
        signature.bind(None)
    except TypeError as error:
        raise OperatorError(f"function {spec!r}: it is called with one argument, the payload, but {error}") from None


def _load_module(spec: str, name: str, config_dir: Path) -> ModuleType:
    _add_to_path(config_dir)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _import_failed(spec, error) from error
        nearby = [module.name for module in pkgutil.iter_modules([str(config_dir)])]
        raise OperatorError(
            f"function {spec!r}: there is no module {error.name!r} in {config_dir} or among what is installed"
            f"{_hint(name, nearby)}"
        ) from None
    except (Exception, SystemExit) as error:
        raise _import_failed(spec, error) from error


def _load_file(spec: str, path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        nearby = [near.name for near in path.parent.glob("*.py")]
        raise OperatorError(f"function {spec!r}: there is no file {path}{_hint(path.name, nearby)}")
    # Two files of one name, in two folders, are two modules.
    name = f"zpipe_function_{path.stem}_{hashlib.sha256(str(path).encode('utf-8', 'replace')).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    _add_to_path(path.parent)
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise OperatorError(f"function {spec!r}: {path} cannot be imported")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look their module up there
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_failed(spec, error) from error
    return module


def _add_to_path(folder: Path) -> None:
    """First, as for a script: a module next to the config wins over an installed one of the same name."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()


def _import_failed(spec: str, error: BaseException) -> OperatorError:
    return OperatorError(f"function {spec!r}: importing it failed: {type(error).__name__}: {error}")


def _hint(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
