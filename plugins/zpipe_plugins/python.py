"""`python`: calls a function of the user with each payload, or with a list of payloads if the stage has a `batch` table.

What the function returns means what it means from a hook: a list is one payload, a generator or `zpipe.many(…)` is many;
of a batch a list of the same length is one to one. It may be `async def`. The config's folder, or the file's, is put in
front of `sys.path`. With `workers.count` above 1 it is called from several threads at once. `zpipe check` imports the
function.

| fault | what follows |
|---|---|
| the function raises | tries again, then a dead letter with the traceback |
| it raises `Throttled`, `Retry`, `Reject`, `OperatorError` | what the function asks for |
| it cannot be imported | `zpipe check` says why; the stage does not start |

**Redelivery.** The function is called again, with the same payload.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from zpipe import BatchMap, Context, Message, Traits, override
from zpipe.errors import OperatorError

_FORMS = "allowed are 'module:name' and 'path.py:name'"


@dataclass
class Options:
    function: Annotated[str, "`module:name`, or `path.py:name` relative to the config file"]
    needs_network: Annotated[bool, "whether the function opens connections of its own"] = False
    outlets: Annotated[list[str] | None, "named outlets of its Messages; left out: those that a stage reads"] = None

    def __post_init__(self) -> None:
        where, colon, name = self.function.rpartition(":")
        if not colon or not where or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"function is {self.function!r}: {_FORMS}")
        if not where.endswith(".py") and not all(part.isidentifier() for part in where.split(".")):
            raise ValueError(f"function is {self.function!r}, and {where!r} is no module's name: {_FORMS}")


class Python(BatchMap[Options]):
    @override
    def check(self, options: Options, config_dir: Path) -> list[tuple[str, str]]:
        try:
            _resolve(options.function, config_dir)
        except OperatorError as error:
            return [("function", str(error))]
        return []

    @override
    def traits(self, options: Options, config_dir: Path) -> Traits:
        return Traits(needs_network=options.needs_network)

    @override
    def outlets(self, options: Options) -> list[str] | None:
        return options.outlets

    @override
    def open(self, context: Context[Options]) -> None:
        self._function = self.payload_function = _resolve(context.options.function, context.config_dir)
        self.batch_function = lambda payloads, ids: self._function(payloads)

    @override
    def process(self, message: Message, context: Context[Options]) -> Any:
        return self._function(message.payload)

    @override
    def process_batch(self, messages: list[Message], context: Context[Options]) -> Any:
        return self._function([message.payload for message in messages])


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
        return  # some built-in functions do not tell their arguments
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
        import pkgutil  # only mistakes need it

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
    # Files of the same name in different folders must become different modules.
    name = f"zpipe_function_{path.stem}_{zlib.crc32(bytes(path)):08x}"
    if name in sys.modules:
        return sys.modules[name]
    _add_to_path(path.parent)
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise OperatorError(f"function {spec!r}: {path} cannot be imported")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # before it is executed, since dataclasses and pickle look up their module there
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_failed(spec, error) from error
    return module


def _add_to_path(folder: Path) -> None:
    """Puts the folder first, as Python does for a script: a module beside the config wins over an installed one of its name."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        # importlib.invalidate_caches() imports importlib.metadata from Python 3.12 on
        sys.path_importer_cache.pop(str(folder), None)


def _import_failed(spec: str, error: BaseException) -> OperatorError:
    return OperatorError(f"function {spec!r}: importing it failed: {type(error).__name__}: {error}")


def _hint(name: str, known: list[str]) -> str:
    from difflib import get_close_matches  # only mistakes need it

    near = get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
