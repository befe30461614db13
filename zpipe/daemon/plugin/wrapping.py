"""The plugins of a stage's `use`, around the calls of its process hooks.

Putting them around belongs here, and opening and closing them with the plugin. Must not live here: what is in a call, and what
comes back from it, which pass through as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from zpipe import plugin_loading
from zpipe.config import Use
from zpipe.hookspecs import Context
from zpipe.messages import Message
from zpipe.plugin_loading import Plugin

Hook = Callable[..., Any]
ONE = "zpipe_process"
SEVERAL = ("zpipe_process_each", "zpipe_process_batch")


def wrapped(plugin: Plugin, uses: Sequence[Use], context: Context) -> Plugin:
    """The plugin with what the stage uses around its calls, the first of it outermost. Each has a context of its own, with its
    options. Raises PluginError if one cannot be loaded."""
    if not uses:
        return plugin
    hooks, is_async = dict(plugin.hooks), set(plugin.is_async)
    for use in reversed(uses):
        wrapper = plugin_loading.load(use.plugin, context.config_dir)
        own = replace(context, options=use.options, scratch=None)
        wrap = wrapper.hooks["zpipe_wrap"]
        for name in (ONE, *SEVERAL):
            if name in hooks:
                hooks[name] = _around_one(wrap, hooks[name], own) if name == ONE else _around(wrap, hooks[name], own)
                if "zpipe_wrap" in wrapper.is_async:
                    is_async.add(name)
        for name in ("zpipe_open", "zpipe_close"):
            if name in wrapper.hooks:
                hooks[name] = _with(wrapper.hooks[name], own, hooks.get(name), first=name == "zpipe_open")
    return plugin._replace(hooks=hooks, is_async=frozenset(is_async))


def _around_one(wrap: Hook, process: Hook, own: Context) -> Hook:
    def call_wrapped(message: Message, context: Context) -> Any:
        return wrap(lambda messages: process(messages[0], context), [message], own)

    return call_wrapped


def _around(wrap: Hook, process: Hook, own: Context) -> Hook:
    def call_wrapped(messages: list[Message], context: Context) -> Any:
        return wrap(lambda messages: process(messages, context), messages, own)

    return call_wrapped


def _with(hook: Hook, own: Context, inner: Hook | None, first: bool) -> Hook:
    """Both hooks, the wrapper's `first` or last. Either may be async."""

    async def call_both(context: Context) -> None:
        for call, given in ((hook, own), (inner, context)) if first else ((inner, context), (hook, own)):
            made = call(given) if call is not None else None
            if made is not None:
                await made

    return call_both
