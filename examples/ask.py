"""An async map: asks a service for each message, as many at once as `workers.count` says."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import zpipe


@dataclass
class Options:
    url: str  # the id of the payload is added to it


class Ask(zpipe.Map[Options]):
    @zpipe.override
    def traits(self, options: Options, config_dir: Path) -> zpipe.Traits:
        return zpipe.Traits(needs_network=True)

    @zpipe.override
    async def open(self, context: zpipe.Context[Options]) -> None:
        self.client = httpx.AsyncClient(base_url=context.options.url, timeout=10)

    @zpipe.override
    async def process(self, message: zpipe.Message, context: zpipe.Context[Options]) -> Any:
        answer = await self.client.get(str(message.payload["id"]))
        if answer.status_code == 404:
            raise zpipe.Reject(f"the service knows no {message.payload['id']}")
        if answer.status_code == 429:
            raise zpipe.Throttled(float(answer.headers.get("Retry-After", 1)))
        answer.raise_for_status()
        return {**message.payload, "answer": answer.json()}

    @zpipe.override
    async def close(self, context: zpipe.Context[Options]) -> None:
        await self.client.aclose()
