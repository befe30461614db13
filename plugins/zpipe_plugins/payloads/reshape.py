"""`reshape`: makes a map of each payload, field by field, by JMESPath expressions.

`fields = { id = "order.id", total = "sum(lines[].price)" }` gives `{"id", "total"}`. With `keep` the fields are added to
those that the payload has, and `without` names those that go. Where an expression finds nothing, its field is null.

| fault | what follows |
|---|---|
| an expression cannot be evaluated for a payload | a dead letter with the reason |
| `keep`, and the payload is no map | a dead letter |

**Redelivery.** The same payload gives the same result, with the same id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from zpipe import Context, Map, Message, Reject, override
from zpipe_plugins.payloads.expressions import compiled, problems_of


@dataclass
class Options:
    fields: Annotated[dict[str, str], "an expression in JMESPath for each field of the new payload"]
    keep: Annotated[bool, "whether the fields of the payload stay beside the new ones"] = False
    without: Annotated[list[str], "fields that do not stay, with `keep`"] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.without and not self.keep:
            raise ValueError("without names fields that do not stay, but without `keep` none stays: set keep = true")


class Reshape(Map[Options]):
    @override
    def check(self, options: Options, config_dir: Path) -> Iterable[tuple[str, str]]:
        for name, problem in problems_of("reshape", options.fields):
            yield "fields", f"{name}: {problem}"

    @override
    def open(self, context: Context[Options]) -> None:
        self._fields = {name: compiled(text) for name, text in context.options.fields.items()}
        self._without = frozenset(context.options.without)

    @override
    def process(self, message: Message, context: Context[Options]) -> Any:
        payload = message.payload
        made = {name: evaluate(payload) for name, evaluate in self._fields.items()}
        if not context.options.keep:
            return made
        if not isinstance(payload, dict):
            raise Reject(f"the payload is a {type(payload).__name__}, and only the fields of a map can be kept")
        return {name: value for name, value in payload.items() if name not in self._without} | made
