"""`select`: makes of each payload what a JMESPath expression finds in it.

`expression = "order.lines[?price > `10`].sku"` makes a list of it, `"{id: id, total: sum(lines[].price)}"` a map. To send
the elements of a list on as messages of their own, let `split` follow.

| fault | what follows |
|---|---|
| the expression cannot be evaluated for a payload | a dead letter with the reason |
| it finds nothing (null) | what `if_null` says |

**Redelivery.** The same payload gives the same result, with the same id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from zpipe import DROP, Context, Map, Message, Reject, override
from zpipe_plugins.payloads.expressions import compiled, problems_of


@dataclass
class Options:
    expression: Annotated[str, "what the payload becomes, in JMESPath"]
    if_null: Annotated[
        Literal["drop", "keep", "reject"], "what becomes of a message in which the expression finds nothing"
    ] = "drop"


class Select(Map[Options]):
    @override
    def check(self, options: Options, config_dir: Path) -> Iterable[tuple[str, str]]:
        return problems_of("select", {"expression": options.expression})

    @override
    def open(self, context: Context[Options]) -> None:
        self._evaluate = compiled(context.options.expression)

    @override
    def process(self, message: Message, context: Context[Options]) -> Any:
        found = self._evaluate(message.payload)
        if found is not None:
            return found
        if context.options.if_null == "reject":
            raise Reject(f"{context.options.expression!r} finds nothing in it")
        return Message(None) if context.options.if_null == "keep" else DROP
