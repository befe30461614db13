"""`validate`: passes on what fits a JSON Schema, and says of everything else where it does not.

`schema` is the name of a JSON file, or the schema itself as a table. Its `$schema` says which draft it is; without one it
is 2020-12. `format` is checked, too. References to other places (`$ref` to a URL) are not followed.

| fault | what follows |
|---|---|
| a payload does not fit | a dead letter with the place and the reason; or what `invalid` says |
| the schema is none, or cannot be read | `zpipe check` says why; the stage does not start |

With `invalid = "outlet"` such a message leaves by the outlet `invalid`, with the reason in its header `invalid`.

**Redelivery.** The same payload gets the same answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from zpipe import DROP, Context, Map, Message, Reject, override
from zpipe_plugins.extras import require

_SHOWN = 300
"""Characters of a reason. The library puts the whole value into it."""


@dataclass
class Options:
    schema: Annotated[str | dict[str, Any], "a JSON file, relative to the config file, or the schema as a table"]
    invalid: Annotated[
        Literal["reject", "drop", "outlet"],
        "what becomes of a message that does not fit; `outlet`: it leaves by `invalid`",
    ] = "reject"


class Validate(Map[Options]):
    @override
    def outlets(self, options: Options) -> Sequence[str]:
        return ("invalid",) if options.invalid == "outlet" else ()

    @override
    def check(self, options: Options, config_dir: Path) -> Iterable[tuple[str, str]]:
        require("validate", "jsonschema")
        try:
            _validator(options, config_dir)
        except ValueError as error:
            yield "schema", str(error)

    @override
    def open(self, context: Context[Options]) -> None:
        self._validator = _validator(context.options, context.config_dir)

    @override
    def process(self, message: Message, context: Context[Options]) -> Any:
        from jsonschema.exceptions import best_match

        error = best_match(self._validator.iter_errors(message.payload))
        if error is None:
            return message
        reason = f"{error.json_path}: {error.message}"[:_SHOWN]
        if context.options.invalid == "reject":
            raise Reject(reason)
        if context.options.invalid == "drop":
            return DROP
        return Message(message.payload, headers={**(message.headers or {}), "invalid": reason}, outlet="invalid")


def _validator(options: Options, config_dir: Path) -> Any:
    """Raises ValueError that says what is wrong with the schema."""
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from referencing.jsonschema import EMPTY_REGISTRY

    schema = _read(options.schema, config_dir)
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"it is no JSON Schema: {error.json_path}: {error.message}"[:_SHOWN]) from None
    # The library's own registry fetches what a $ref names, from wherever that is.
    return kind(schema, registry=EMPTY_REGISTRY, format_checker=kind.FORMAT_CHECKER)


def _read(schema: str | dict[str, Any], config_dir: Path) -> Any:
    if isinstance(schema, dict):
        return schema
    path = config_dir / Path(schema).expanduser()
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
