"""Finds, imports and checks the one plugin that a stage names, and tells everything that is wrong with it at once.

Does not belong here: calling a hook, except those by which a plugin describes itself.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import pluggy

from zpipe.errors import OperatorError, PluginError
from zpipe.hookspecs import Hooks, Traits
from zpipe.plugin_classes import PluginClass, Sink, Source, Worker, hooks_of, missing, options_of, problems_of

GROUP = "zpipe.plugins"
WORK_HOOKS = ("zpipe_source", "zpipe_process", "zpipe_process_each", "zpipe_process_batch", "zpipe_wrap")
SYNC_HOOKS = ("zpipe_options", "zpipe_outlets", "zpipe_check", "zpipe_traits", "zpipe_total")
"""Called where there is no event loop, or where nobody waits for one."""
GENERATOR_HOOKS = ("zpipe_source", "zpipe_tick", "zpipe_flush")
"""These may be async generators."""

Hook = Callable[..., Any]


class Plugin(NamedTuple):
    """A plugin that was found, imported and checked.

    hooks         the functions that it implements, by hook name. Each takes all arguments of its specification, in that order
    options_type  the dataclass of its options; None if it takes none
    is_async      names of the hooks that are ``async def``
    is_sink       it is a `zpipe.Sink`, so nothing comes out of it
    source_form   what it is in a stage without input, where that is a class of its own with options of its own
    """

    name: str
    hooks: Mapping[str, Hook]
    options_type: type | None
    is_async: frozenset[str]
    is_sink: bool = False
    source_form: Plugin | None = None

    @property
    def forms(self) -> list[Plugin]:
        """As stages use it: itself, or where it has a source of its own that, and what takes messages."""
        return [self] if self.source_form is None else [self.source_form, self._replace(source_form=None)]

    @property
    def is_source(self) -> bool:
        return "zpipe_source" in self.hooks

    @property
    def is_wrapper(self) -> bool:
        """It is for the `use` of a stage, beside the stage's own plugin."""
        return "zpipe_wrap" in self.hooks

    @property
    def takes_messages(self) -> bool:
        return "zpipe_process" in self.hooks or "zpipe_process_each" in self.hooks

    @property
    def takes_batches(self) -> bool:
        return "zpipe_process_batch" in self.hooks

    def is_called_async(self, batching: bool) -> bool:
        """The process hook that a stage with or without a `batch` table calls is ``async def``."""
        each = "zpipe_process_each" if "zpipe_process_each" in self.hooks else "zpipe_process"
        return ("zpipe_process_batch" if batching else each) in self.is_async

    def in_stage(self, has_input: bool) -> Plugin:
        """As a stage uses it. One that is a source and also takes messages is a source where the stage has no input. One that is
        also for the `use` of other stages does nothing of that in a stage of its own."""
        if self.source_form is not None:
            return self._replace(source_form=None) if has_input else self.source_form
        if not (self.takes_messages or self.takes_batches):
            return self
        unused = {"zpipe_wrap"}
        if self.is_source:
            unused |= {"zpipe_source"} if has_input else {*WORK_HOOKS} - {"zpipe_source"}
        hooks = {hook: call for hook, call in self.hooks.items() if hook not in unused}
        return self._replace(hooks=hooks, is_sink=self.is_sink and "zpipe_source" not in hooks)

    def problems(self, options: Any, folder: Path) -> list[tuple[str, str]]:
        """What the plugin itself finds wrong with its options, as (option, problem). Raises PluginError if it cannot say."""
        found = _describe(self.name, "zpipe_check", self.hooks, options, folder)
        try:
            return [(str(option), str(problem)) for option, problem in found or ()]
        except OperatorError as error:  # a generator raises only now
            raise PluginError(f"plugin {self.name!r}: {error}") from error
        except Exception as error:
            raise PluginError(f"plugin {self.name!r}: zpipe_check raised {type(error).__name__}: {error}") from error

    def traits(self, options: Any, folder: Path) -> Traits:
        """What the plugin says of itself with these options. Raises PluginError if it cannot say."""
        found = _describe(self.name, "zpipe_traits", self.hooks, options, folder)
        if found is None:
            return Traits(is_sink=self.is_sink)
        if not isinstance(found, Traits):
            raise PluginError(f"plugin {self.name!r}: zpipe_traits must return zpipe.Traits, not {found!r}")
        return dataclasses.replace(found, is_sink=found.is_sink or self.is_sink)

    def outlets(self, options: Any) -> tuple[str, ...] | None:
        """The outlets that the plugin declares with these options, besides the default one; None if it declares none.

        Raises PluginError if it cannot say.
        """
        found = _describe(self.name, "zpipe_outlets", self.hooks, options)
        if found is None:
            return None
        if not isinstance(found, tuple | list) or not all(isinstance(outlet, str) and outlet for outlet in found):
            raise PluginError(f"plugin {self.name!r}: zpipe_outlets must return a tuple of names, not {found!r}")
        return tuple(found)


class _SourceAndWorker(NamedTuple):
    """The plugin of a module with two classes: the one for a stage without input, and the one that takes messages."""

    source: PluginClass[Any]
    worker: PluginClass[Any]


def load(name: str, folder: Path) -> Plugin:
    """The plugin that `name` names: an entry point, ``module:object``, or a file (relative to `folder`).

    Raises PluginError that tells everything that is wrong with it.
    """
    target = _find(name, folder)
    if isinstance(target, PluginClass):
        return _load_class(name, target)
    if isinstance(target, _SourceAndWorker):
        return _load_class(name, target.worker)._replace(source_form=_load_class(name, target.source))
    marked, unmarked = _hook_functions(target)
    problems = [*_hook_problems(marked), *unmarked] or _role_problems(name, target, set(marked))
    if problems:
        raise PluginError(f"plugin {name!r}: " + "; ".join(problems))
    manager = pluggy.PluginManager("zpipe")
    manager.add_hookspecs(Hooks)
    try:
        manager.register(target, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"plugin {name!r}: {error}") from error
    hooks = {hook: _adapt(hook, function) for hook, function in marked.items()}
    return Plugin(name, hooks, _options_type(name, hooks), _async_hooks(marked))


def _load_class(name: str, plugin: PluginClass[Any]) -> Plugin:
    """The plugin that is an object of one of the base classes. Raises PluginError likewise."""
    _check_class(name, type(plugin))
    marked = hooks_of(plugin)
    problems = list(_hook_problems(marked, "zpipe_"))
    if problems:
        raise PluginError(f"plugin {name!r}: " + "; ".join(problems))
    options_type = options_of(type(plugin))
    if options_type is not None and not (isinstance(options_type, type) and dataclasses.is_dataclass(options_type)):
        raise PluginError(f"plugin {name!r}: the options of {type(plugin).__name__} are no dataclass: {options_type!r}")
    hooks = {hook: _adapt(hook, function) for hook, function in marked.items()}
    return Plugin(name, hooks, options_type, _async_hooks(marked), isinstance(plugin, Sink))


def _async_hooks(marked: Mapping[str, Hook]) -> frozenset[str]:
    return frozenset(hook for hook, function in marked.items() if _is_async(function))


def _is_async(function: Hook) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def installed() -> list[tuple[str, str, str]]:
    """(name, distribution, version) of every plugin that has an entry point. None of them is imported."""
    found = _entry_points()
    return sorted({(e.name, e.dist.name if e.dist else "", e.dist.version if e.dist else "") for e in found})


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The known name that `name` was most likely meant to be, or "" if none is near."""
    import difflib  # only mistakes need it

    lowered = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), lowered, n=1)
    return lowered[found[0]] if found else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint to put behind a text that refuses `name`; "" if no known name is near."""
    near = nearest_name(name, known)
    return f" (did you mean {near!r}?)" if near else ""


# Finding


def _entry_points() -> Any:
    from importlib import metadata  # it brings `email` and `zipfile`: 13 ms and 2 MiB

    return metadata.entry_points(group=GROUP)


def provided(name: str) -> set[str]:
    """What entry points of that name stand for, read from where pip leaves them.

    Not seen here: one of an egg or a zip file. Not left out: one of a distribution that another of its name hides."""
    found = set()
    for file in (file for folder in sys.path for file in Path(folder).glob("*.dist-info/entry_points.txt")):
        with suppress(OSError, UnicodeError):
            points = file.read_text("utf-8").partition(f"[{GROUP}]\n")[2].partition("\n[")[0]
            for line in points.splitlines():
                key, _, value = line.partition("=")
                if key.strip() == name:
                    found.add(value.partition("[")[0].strip())
    return found


def _find(name: str, folder: Path) -> Any:
    if "/" in name or name.endswith(".py") or ".py:" in name:
        return _from_file(name, folder)
    if ":" in name:
        module, _, attribute = name.partition(":")
        return _from_module(name, module, attribute, folder)
    found = provided(name)  # an editable install may list the same one twice
    if len(found) != 1:
        found = {point.value for point in _entry_points() if point.name == name}
    if len(found) > 1:
        raise PluginError(
            f"plugin {name!r} is provided more than once: name one by module:object: {', '.join(sorted(found))}"
        )
    for value in found:
        module, _, attribute = value.partition(":")
        return _from_module(name, module, attribute, folder)
    known = sorted(_entry_points().names)
    beside = f"; a file is named './{name}.py'" if (folder / f"{name}.py").is_file() else ""
    raise PluginError(
        f"no plugin {name!r}{did_you_mean(name, known)}; installed are: {', '.join(known) or 'none'}{beside}"
    )


def _from_module(name: str, module_name: str, attribute: str, folder: Path) -> Any:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _import_failure(name, error) from None
        beside = folder / f"{module_name}.py"
        hint = f"; for the file beside the config write './{beside.name}:{attribute}'" if beside.is_file() else ""
        raise PluginError(f"plugin {name!r}: no module {error.name!r} can be imported{hint}") from None
    except (Exception, SystemExit) as error:
        raise _import_failure(name, error) from None
    return _attribute(name, module, attribute)


def _from_file(name: str, folder: Path) -> Any:
    file, dot_py, attribute = name.partition(".py:")
    path = (folder / f"{file}{'.py' if dot_py else ''}").absolute()
    if not path.is_file():
        hint = did_you_mean(path.name, (p.name for p in path.parent.glob("*.py")))
        raise PluginError(f"plugin {name!r}: no file {path}{hint}")
    # Files of the same name in different folders must become different modules.
    module_name = f"zpipe_file_{path.stem}_{zlib.crc32(bytes(path)):08x}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin {name!r}: {path} is not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module there while they are made.
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise _import_failure(name, error) from None
    return _attribute(name, module, attribute)


def _attribute(name: str, module: Any, attribute: str) -> Any:
    try:
        target = reduce(getattr, attribute.split("."), module) if attribute else module
    except AttributeError:
        hint = did_you_mean(attribute, (a for a in dir(module) if not a.startswith("_")))
        raise PluginError(f"plugin {name!r}: {module.__name__!r} has no {attribute!r}{hint}") from None
    if inspect.isclass(target):
        if not issubclass(target, PluginClass):
            raise PluginError(f"plugin {name!r}: {attribute!r} is a class; name an object, such as {attribute}()")
        return _object_of(name, target)
    classes = [] if attribute else _plugin_classes(target)
    if not classes:
        return target
    sources = [cls for cls in classes if issubclass(cls, Source)]
    workers = [cls for cls in classes if issubclass(cls, Worker)]
    hooks = _hook_functions(target)[0]
    if len(sources) == len(workers) == 1 and len(classes) == 2 and not hooks:
        return _SourceAndWorker(_object_of(name, sources[0]), _object_of(name, workers[0]))
    if len(classes) > 1 or hooks:
        names = ", ".join(cls.__name__ for cls in classes)
        more = "" if len(classes) > 1 else " and hooks besides"
        one = f"{name}:{classes[0].__name__}"
        raise PluginError(f"plugin {name!r} has the classes {names}{more}: name one, as in {one}")
    return _object_of(name, classes[0])


def _plugin_classes(module: Any) -> list[type[PluginClass[Any]]]:
    """Those that the module defines, but for what others of them derive from and for private ones."""
    found = [
        value
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, PluginClass) and value.__module__ == module.__name__
        if not key.startswith("_")
    ]
    return [cls for cls in dict.fromkeys(found) if not any(cls in other.__mro__[1:] for other in found)]


def _object_of(name: str, cls: type[PluginClass[Any]]) -> PluginClass[Any]:
    _check_class(name, cls)
    try:
        return cls()
    except OperatorError as error:
        raise PluginError(f"plugin {name!r}: {error}") from None
    except (Exception, SystemExit) as error:
        raise PluginError(f"plugin {name!r}: {cls.__name__}() raised {type(error).__name__}: {error}") from error


def _import_failure(name: str, error: BaseException) -> PluginError:
    where = ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" at {error.filename}:{error.lineno}"
        text = error.msg
    else:
        text = str(error)
        trace = error.__traceback__
        while trace is not None:
            file = trace.tb_frame.f_code.co_filename
            if file not in (__file__, importlib.__file__) and not file.startswith("<frozen"):
                where = f" at {file}:{trace.tb_lineno}"
            trace = trace.tb_next
    return PluginError(f"plugin {name!r} cannot be imported: {type(error).__name__}: {text}{where}")


# Checking


def _check_class(name: str, cls: type[PluginClass[Any]]) -> None:
    problems = problems_of(cls)
    if not problems and (lacking := missing(cls)):
        problems = [f"{cls.__name__} lacks the hook {lacking}"]
    if problems:
        raise PluginError(f"plugin {name!r}: " + "; ".join(problems))


def _specs() -> dict[str, list[str]]:
    return {
        name: [p for p in inspect.signature(spec).parameters if p != "self"]
        for name, spec in vars(Hooks).items()
        if name.startswith("zpipe_")
    }


SPECS = _specs()


def _hook_functions(target: Any) -> tuple[dict[str, Hook], list[str]]:
    """The functions that are marked with @hookimpl, by hook name, and what is wrong with how they are marked."""
    manager = pluggy.PluginManager("zpipe")
    marked: dict[str, Hook] = {}
    problems = []
    for attribute in dir(target):
        options = manager.parse_hookimpl_opts(target, attribute)
        if options is None:
            if attribute in SPECS and callable(getattr(target, attribute)):
                problems.append(f"{attribute} is not marked with @zpipe.hookimpl, so it would never be called")
            continue
        hook = options.get("specname") or attribute
        if options.get("wrapper") or options.get("hookwrapper"):
            problems.append(f"{attribute} is a hook wrapper; a stage has one plugin, so there is nothing to wrap")
        elif hook in marked:
            problems.append(f"{hook} is implemented twice")
        marked[hook] = getattr(target, attribute)
    return marked, problems


def _hook_problems(marked: Mapping[str, Hook], prefix: str = "") -> Iterable[str]:
    """`prefix`: what a plugin of this kind leaves out of the names of hooks."""
    for hook, function in marked.items():
        if hook not in SPECS:
            yield f"there is no hook {hook!r}{did_you_mean(hook, SPECS)}; hooks are {', '.join(SPECS)}"
            continue
        shown = hook.removeprefix(prefix)
        allowed = f"{shown}({', '.join(SPECS[hook])})"
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY):
                given = str(parameter).split(":")[0]
                yield f"{shown} may not take {given!r}: arguments come by position; it is {allowed}"
            elif parameter.name not in SPECS[hook]:
                hint = did_you_mean(parameter.name, SPECS[hook])
                yield f"{shown} has no argument {parameter.name!r}{hint}; it is {allowed}"
        if inspect.isasyncgenfunction(function) and hook not in GENERATOR_HOOKS:
            yield f"{shown} is an async generator; return zpipe.many(...) instead of yielding"
        elif hook == "zpipe_source" and inspect.iscoroutinefunction(function):
            yield f"{shown} is async def, so it must yield its messages"
        elif inspect.iscoroutinefunction(function) and hook in SYNC_HOOKS:
            yield f"{shown} may not be async def: it is called where no event loop runs"


def _role_problems(name: str, target: Any, hooks: set[str]) -> list[str]:
    work = [hook for hook in WORK_HOOKS if hook in hooks]
    if not work:
        called = [a for a in dir(target) if a.startswith("zpipe_") and a not in hooks and callable(getattr(target, a))]
        if called:
            return [f"{', '.join(called)} not marked with @zpipe.hookimpl{did_you_mean(called[0], SPECS)}"]
        has = f"only {', '.join(sorted(hooks))}" if hooks else "no hooks at all"
        return [f"it has {has}; one of {', '.join(WORK_HOOKS)} is needed, marked with @zpipe.hookimpl"]
    return []


def _adapt(hook: str, function: Hook) -> Hook:
    """A function that takes all arguments of the specification. One that does so already is returned as it is."""
    wanted = list(inspect.signature(function).parameters)
    if wanted == SPECS[hook]:
        return function
    if wanted == SPECS[hook][:1]:
        return lambda first, *_: function(first)
    places = [SPECS[hook].index(name) for name in wanted]
    return lambda *arguments: function(*[arguments[i] for i in places])


def _describe(name: str, hook: str, hooks: Mapping[str, Hook], *arguments: Any) -> Any:
    if hook not in hooks:
        return None
    try:
        return hooks[hook](*arguments)
    except OperatorError as error:  # what it says is for the person who runs it, such as what to install
        raise PluginError(f"plugin {name!r}: {error}") from error
    except (Exception, SystemExit) as error:
        raise PluginError(f"plugin {name!r}: {hook} raised {type(error).__name__}: {error}") from error


def _options_type(name: str, hooks: Mapping[str, Hook]) -> type | None:
    found = _describe(name, "zpipe_options", hooks)
    if found is None or (isinstance(found, type) and dataclasses.is_dataclass(found)):
        return found
    raise PluginError(f"plugin {name!r}: zpipe_options must return a dataclass (the type itself), not {found!r}")
