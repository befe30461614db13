"""`filter`: passes on the messages for which a JMESPath expression is true, and drops the others.

`where = "status >= `500` && method != 'GET'"`. As JMESPath has it, null, false and empty texts, lists and maps are false,
and numbers are true, also zero. What is dropped is counted as filtered.

| fault | what follows |
|---|---|
| the expression cannot be evaluated for a payload | a dead letter with the reason |

**Redelivery.** The same payload gives the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from zpipe import DROP, Context, Map, Message, override
from zpipe_plugins.payloads.expressions import compiled, is_true, problems_of


@dataclass
class Options:
    where: Annotated[str, "what is true of a payload that passes, in JMESPath"]


class Filter(Map[Options]):
    @override
    def check(self, options: Options, config_dir: Path) -> Iterable[tuple[str, str]]:
        return problems_of("filter", {"where": options.where})

    @override
    def open(self, context: Context[Options]) -> None:
        self._evaluate = compiled(context.options.where)

    @override
    def process(self, message: Message, context: Context[Options]) -> Any:
        return message if is_true(self._evaluate(message.payload)) else DROP
