"""`route`: sends each message out by the first named outlet whose JMESPath expression is true for it.

```toml
[stages.route]
input = "parse"
plugin = "route"
options = { routes = { errors = "status >= `500`", slow = "seconds > `1`" } }

[stages.alert]
input = "route.errors"
plugin = "notify"
options = { urls = ["${NOTIFY_URL}"] }

[stages.note]
input = "route.slow"
plugin = "ndjson"
options = { path = "slow.ndjson" }
```

The routes are asked in the order in which they are written. What no route takes leaves by the default outlet (`input =
"route"`).

| fault | what follows |
|---|---|
| an expression cannot be evaluated for a payload | a dead letter with the reason |
| no route takes the message | what `otherwise` says |
| no stage reads from an outlet | its messages are counted as unrouted; `zpipe check` warns |

**Redelivery.** The same payload takes the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from zpipe import DROP, Context, Map, Message, Reject, override
from zpipe_plugins.payloads.expressions import compiled, is_true, problems_of


@dataclass
class Options:
    routes: Annotated[dict[str, str], "for each outlet, what is true of its messages, in JMESPath"]
    otherwise: Annotated[
        Literal["pass", "drop", "reject"],
        "what becomes of what no route takes; `pass`: it leaves by the default outlet",
    ] = "pass"

    def __post_init__(self) -> None:
        if not self.routes:
            raise ValueError("routes is empty: allowed is a table of outlets, each with an expression")


class Route(Map[Options]):
    @override
    def outlets(self, options: Options) -> Sequence[str]:
        return tuple(options.routes)

    @override
    def check(self, options: Options, config_dir: Path) -> Iterable[tuple[str, str]]:
        for name, problem in problems_of("route", options.routes):
            yield "routes", f"{name}: {problem}"

    @override
    def open(self, context: Context[Options]) -> None:
        self._routes = [(outlet, compiled(text)) for outlet, text in context.options.routes.items()]

    @override
    def process(self, message: Message, context: Context[Options]) -> Any:
        for outlet, evaluate in self._routes:
            if is_true(evaluate(message.payload)):
                return Message(message.payload, outlet=outlet)
        if context.options.otherwise == "reject":
            raise Reject(f"none of the routes {', '.join(context.options.routes)} takes it")
        return message if context.options.otherwise == "pass" else DROP
