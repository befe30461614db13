"""Writes an access log as a small shop has it: python make_access_log.py FILE [REQUESTS] [SEED].

More requests by day than by night, few clients with many requests, robots, images behind pages, errors that come in
bursts, and some lines that are none. The same seed makes the same log.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

DAY = datetime(2026, 1, 31, tzinfo=UTC)
BY_HOUR = (2, 1, 1, 1, 1, 2, 4, 7, 9, 10, 11, 12, 11, 11, 12, 12, 12, 13, 14, 16, 17, 14, 9, 5)
PAGES = (
    "/",
    "/shop",
    "/shop/tea",
    "/shop/coffee",
    "/shop/cups?colour=blue",
    "/basket",
    "/order",
    "/about",
    "/search?q=tea",
)
FILES = ("/style.css", "/logo.svg", "/img/tea.jpg", "/img/coffee.jpg")
AGENTS = ("Mozilla/5.0 (X11; Linux x86_64)", "Mozilla/5.0 (iPhone)", "Googlebot/2.1", "curl/8.5.0")
OUTAGE = 0.002
"""The chance that the shop's database is away from a request on, for some of those that follow."""


def lines(requests: int, seed: int) -> Iterator[str]:
    chance = random.Random(seed)
    clients = [
        f"{chance.randint(1, 223)}.{chance.randint(0, 255)}.{chance.randint(0, 255)}.{n % 256}" for n in range(400)
    ]
    out_for = 0
    for at in sorted(chance.choices(range(24), BY_HOUR)[0] * 3600 + chance.uniform(0, 3600) for _ in range(requests)):
        out_for = chance.randint(5, 40) if chance.random() < OUTAGE else max(0, out_for - 1)
        client = clients[min(int(chance.paretovariate(0.8)), len(clients)) - 1]
        path = chance.choice(PAGES if chance.random() < 0.4 else FILES)
        status, seconds = 200, chance.lognormvariate(-3.5, 0.9)
        if out_for and path in PAGES:
            status, seconds = chance.choice((500, 502, 503)), seconds + 2.0
        elif chance.random() < 0.03:
            status, path = 404, f"/wp-login.php?{chance.randint(1, 99)}"
        elif chance.random() < 0.1:
            status = 304
        size = "-" if status == 304 else str(int(chance.lognormvariate(8, 1.2)))
        when = (DAY + timedelta(seconds=at)).strftime("%d/%b/%Y:%H:%M:%S +0000")
        method = "POST" if path == "/order" else "GET"
        yield f'{client} - - [{when}] "{method} {path} HTTP/1.1" {status} {size} "-" "{chance.choice(AGENTS)}" {seconds:.3f}'
        if chance.random() < 0.001:
            yield "\\x16\\x03\\x01"  # somebody speaks TLS to the port of HTTP


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 3:
        print("usage: python make_access_log.py FILE [REQUESTS] [SEED]", file=sys.stderr)
        return 2
    requests, seed = (int(arguments[n]) if len(arguments) > n else default for n, default in ((1, 20_000), (2, 1)))
    with open(arguments[0], "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines(requests, seed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
