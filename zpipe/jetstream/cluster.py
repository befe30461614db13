"""A connection to a NATS cluster, on a thread of its own with its own asyncio loop.

Opening all that links need, and carrying out their orders, belong here. Must not live here: which parcels to publish or to ask
for, and what becomes of them.

Orders come from the loop's thread and never block it. Each belongs to one life of the connection. An order for a life that is
over is dropped: the loop takes it for lost when it hears of the loss. `nats` connects once and is not let reconnect: it would
keep, and send later, what the loop has given to another life by then.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from zpipe.core.jetstream.events import (
    Acked,
    AllHeard,
    Arrived,
    Connected,
    Event,
    Figures,
    Heard,
    Lost,
    NotStored,
    PullOver,
    Stored,
    Written,
)
from zpipe.core.jetstream.orders import (
    Acknowledge,
    Extend,
    Forget,
    HandBack,
    LinkKey,
    Look,
    Order,
    Publish,
    Pull,
    Write,
)
from zpipe.core.jetstream.producers import key_prefix
from zpipe.jetstream import connection, names, streams
from zpipe.jetstream.access import Access, AccessError
from zpipe.jetstream.names import LinkNames
from zpipe.jetstream.streams import StreamSettings

Told = Callable[[LinkKey | None, Event], None]
"""Called with each event, and the link that it is about; None: it concerns all of them."""

ANSWER_S = 5.0
"""What is not answered after this is taken to be lost. The election of a leader takes about 4 s at worst."""
PULL_S = 5.0
"""After this the server ends a request for parcels, and says so."""
OPEN_S = 2.0
"""How long each answer may take while a connection is opened. Otherwise it is opened anew, perhaps to another server."""
OPENING_S = 15.0
"""How long the opening may take in all, whatever the client waits for."""
FIRST_RETRY_S, MAX_RETRY_S = 0.1, 2.0
PING_S = 2.0
"""A server that does not answer two pings in a row is gone: a frozen one is noticed like any other silent peer."""
READ_AGAIN_S = 5.0
"""Between two readings of where producers stand. An instance that has missed a change waits no longer for it."""
SWEEP_S = 0.5
PAYLOAD_BYTES = 2**20
"""The most of a parcel: what a server takes unless its config says otherwise."""
CLOSE_S = 3.0
NO_STREAM, NO_CONSUMER = 10059, 10014
"""JetStream's codes for a stream and a consumer that are not there."""
BUCKET_LOOK_S = 5.0
STREAM_FULL = frozenset({10047, 10077})
"""JetStream's codes for too little storage, and for a stream that has reached a limit of its own."""


class Cluster:
    """Call `start`, `perform`, `close`; and `adopt` with each `Connected` that is handed to links."""

    def __init__(
        self,
        access: Access,
        pipeline: str,
        sends: Sequence[StreamSettings],
        receives: Sequence[StreamSettings],
        who: str,
    ) -> None:
        self._access = access
        self._pipeline = pipeline
        self._sends = tuple(sends)
        self._receives = tuple(receives)
        self._who = who
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="jetstream", daemon=True)
        self._commands: deque[tuple[int, Order]] = deque()
        self._woken = False
        self._some, self._ended = asyncio.Event(), asyncio.Event()
        self._lives = 0
        self._life_heard_of = 0

    # ---- for the loop's thread

    def start(self, heard: Told) -> None:
        """`heard` is called on this object's thread."""
        self._heard = heard
        self._thread.start()

    def close(self) -> None:
        """Ends the connection and the thread. Blocks for as long as that takes, some seconds at most."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # its loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._wake_to_close)
            self._thread.join(CLOSE_S)

    def adopt(self, life: int) -> None:
        """The loop's thread has heard of this life of the connection: orders are for it from now on."""
        self._life_heard_of = life

    def perform(self, order: Order) -> None:
        """Does not block, and raises nothing: what cannot be done is told by an event, or by none."""
        self._commands.append((self._life_heard_of, order))
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._wake)

    # ---- on this object's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            left = asyncio.all_tasks(self._loop)  # the client's own tasks: asyncio would complain of each that is left
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.wait(left, timeout=0.5))
            self._loop.close()

    def _wake(self) -> None:
        self._some.set()

    def _wake_to_close(self) -> None:
        self._ended.set()
        self._some.set()

    async def _main(self) -> None:
        pause_s = FIRST_RETRY_S
        while not self._ended.is_set():
            self._lives += 1
            life = _Life(
                self._access, self._pipeline, self._sends, self._receives, self._heard, self._who, self._some.set
            )
            opening = asyncio.ensure_future(life.open())
            ended = asyncio.ensure_future(self._ended.wait())
            await asyncio.wait([opening, ended], timeout=OPENING_S, return_when=asyncio.FIRST_COMPLETED)
            if opening.done() and opening.exception() is None:
                since = time.monotonic()
                self._heard(None, Connected(self._lives, *opening.result()))
                await self._serve(life)
                reason = life.lost
                if time.monotonic() - since > MAX_RETRY_S:  # else its own orders may have ended it
                    pause_s = FIRST_RETRY_S
            else:
                opening.cancel()
                reason = _why(opening.exception()) if opening.done() else f"not open in {OPENING_S:g} s"
            ended.cancel()
            await life.close()
            if self._ended.is_set():
                return
            self._heard(None, Lost(reason or "the connection was closed"))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), pause_s)
            pause_s = min(2 * pause_s, MAX_RETRY_S)

    async def _serve(self, life: _Life) -> None:
        """Carries out commands until the connection is lost or closed."""
        while not self._ended.is_set() and not life.lost:
            await self._some.wait()
            self._some.clear()
            self._woken = False  # before looking: what comes after this wakes anew
            while self._commands and not life.lost:
                number, order = self._commands.popleft()
                if number != self._lives:
                    continue
                try:
                    await life.perform(order)
                except Exception as error:  # whatever the client raises: its connection is not what it should be
                    life.lose(connection.words_of(error))


class _Life:
    """One connection, from being opened to its loss. `lost`: why, in words; "" while it stands."""

    def __init__(
        self,
        access: Access,
        pipeline: str,
        sends: Sequence[StreamSettings],
        receives: Sequence[StreamSettings],
        heard: Told,
        who: str,
        on_lost: Callable[[], object],
    ) -> None:
        self.lost: str = ""
        self._on_lost = on_lost
        self._access = access
        self._pipeline = pipeline
        self._sends = sends
        self._receives = receives
        self._heard = heard
        self._who = who
        self._publishing: dict[str, tuple[LinkNames, int, float]] = {}
        self._pulls: dict[str, list[Any]] = {}
        self._acking: dict[str, tuple[LinkKey, int, float]] = {}
        self._links = {one.names.stream: one.names for one in receives}
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = 0
        self._created: dict[str, str] = {}
        self._client: Any = None

    # ---- opening and closing

    async def open(self) -> tuple[str, str]:
        """Returns the server's name and its version. Raises whatever is in the way."""
        try:
            return await self._open()
        finally:
            if self.lost:  # `lost` has the server's refusal; the exception only says that there was no answer
                raise AccessError(self.lost, "")

    async def _open(self) -> tuple[str, str]:
        self._client = client = await connection.connect(
            self._access,
            self._refused,
            self._client_closed,
            name=self._who,
            ping_interval=PING_S,
            max_outstanding_pings=2,
        )
        jetstream = client.jetstream(timeout=OPEN_S)
        for settings in self._sends:
            await streams.make(jetstream, settings)
        for settings in self._receives:
            await streams.make(jetstream, settings)
            await streams.make_consumer(jetstream, settings)
        if client.max_payload < PAYLOAD_BYTES:
            raise ValueError(f"its max_payload is {client.max_payload} bytes, and a parcel may have {PAYLOAD_BYTES}")
        replicas = max(one.replicas for one in (*self._sends, *self._receives))
        self._bucket = await streams.bucket(jetstream, names.bucket(self._pipeline), replicas)
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.p.*", cb=self._publish_answered)
        await client.subscribe(f"{self._inbox}.a.*", cb=self._ack_answered)
        # No limit: only parcels come that were asked for, and there is room for them.
        await client.subscribe(f"{self._inbox}.d.*", cb=self._delivered, pending_bytes_limit=0)
        self._subject = f"$KV.{names.bucket(self._pipeline)}."
        await client.subscribe(f"{self._subject}>", cb=self._entry_written)
        await client.flush()
        self._jetstream = jetstream
        self.start(self._sweep())
        self.start(self._read_all())
        self.start(self._watch_bucket())
        server = client.connected_url.netloc.rpartition("@")[2] if client.connected_url else "?"
        return server, str(client.connected_server_version)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.lost = self.lost or "closed"
        if self._client is not None:
            # Not `wait_for`: that waits for what it cancels to end, and the client may ignore the cancellation.
            closing = asyncio.ensure_future(self._client.close())
            await asyncio.wait([closing], timeout=1.0)
            if closing.done():
                closing.exception()  # looked at, or asyncio would log it

    def lose(self, reason: str) -> None:
        """The connection is of no use any more."""
        if not self.lost:
            self.lost = reason
            self._on_lost()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs the coroutine beside the orders. If it fails, the connection is lost."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.lose(connection.words_of(error))

    def _refused(self, said: str) -> None:
        """The server has refused a subject. Links need all that they use, so the connection is of no use."""
        self.lose(str(connection.rights_problem(said)))

    async def _client_closed(self) -> None:
        if self._client is not None:
            self.lose(str(connection.closed_problem(self._client.last_error, self._access)))

    async def _sweep(self) -> None:
        """Gives up what was not answered in time, and tells the links of parcels and requests. Acks they repeat by themselves."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for token, (link, number, until) in list(self._publishing.items()):
                if now >= until:
                    del self._publishing[token]
                    self._heard(link, NotStored(number, f"no answer in {ANSWER_S:g} s", full=False))
            for token, (link, left, until) in list(self._pulls.items()):
                if now >= until:
                    del self._pulls[token]
                    self._heard(link, PullOver(left))
            for token, (_, _, until) in list(self._acking.items()):
                if now >= until:
                    del self._acking[token]

    async def perform(self, order: Order) -> None:
        match order:
            case Publish():
                await self._publish(LinkNames(*order.link), order)
            case Pull():
                await self._pull(LinkNames(*order.link), order.parcels)
            case Acknowledge():
                await self._acknowledge(order)
            case Extend():
                await self._say(order.replies, b"+WPI")
            case HandBack():
                await self._say(order.replies, b"-NAK")
            case Look():
                self.start(self._look(LinkNames(*order.link), order.number))
            case Write():
                self.start(self._write(order))
            case Forget():
                self.start(self._forget(order))

    def _token(self) -> str:
        self._number += 1
        return str(self._number)

    # ---- parcels out

    async def _publish(self, link: LinkNames, order: Publish) -> None:
        token = self._token()
        self._publishing[token] = link, order.number, time.monotonic() + ANSWER_S
        await self._client.publish(link.subject(order.messages), order.payload, reply=f"{self._inbox}.p.{token}")

    async def _publish_answered(self, message: Any) -> None:
        link, number, _ = self._publishing.pop(message.subject.rpartition(".")[2], (None, 0, 0.0))
        if link is None:
            return
        problem, full = _publish_problem(message)
        self._heard(link, NotStored(number, problem, full) if problem else Stored(number))

    # ---- parcels in

    async def _pull(self, link: LinkNames, parcels: int) -> None:
        token = self._token()
        self._pulls[token] = [link, parcels, time.monotonic() + PULL_S + ANSWER_S]
        request = {"batch": parcels, "expires": int(PULL_S * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{link.stream}.{link.durable}"
        await self._client.publish(subject, json.dumps(request).encode(), reply=f"{self._inbox}.d.{token}")

    async def _delivered(self, message: Any) -> None:
        # A delivery has the subject of its parcel, so it does not tell which request it answers.
        found = names.delivered(message.reply) if message.reply else None
        if found is None:
            self._pull_status(message)
            return
        link = self._links.get(names.stream_of(message.reply))
        if link is None:
            return
        for token, pull in self._pulls.items():  # the oldest request of the link is served first
            if pull[0] == link:
                pull[1] -= 1
                if pull[1] <= 0:
                    del self._pulls[token]
                break
        self._heard(link, Arrived(message.reply, found.sequence, found.times, message.data))

    def _pull_status(self, message: Any) -> None:
        status = str((message.headers or {}).get("Status", ""))
        pull = self._pulls.get(message.subject.rpartition(".")[2])
        if pull is not None and status and status != "100":
            del self._pulls[message.subject.rpartition(".")[2]]
            self._heard(pull[0], PullOver(pull[1]))

    async def _acknowledge(self, order: Acknowledge) -> None:
        until = time.monotonic() + ANSWER_S
        for sequence, reply in order.deliveries:
            token = self._token()
            self._acking[token] = order.link, sequence, until
            await self._client.publish(reply, b"+ACK", reply=f"{self._inbox}.a.{token}")

    async def _ack_answered(self, message: Any) -> None:
        link, sequence, _ = self._acking.pop(message.subject.rpartition(".")[2], (None, 0, 0.0))
        if link is not None and not _is_no_responder(message):
            self._heard(link, Acked(sequence))

    async def _say(self, replies: Sequence[str], what: bytes) -> None:
        for reply in replies:
            await self._client.publish(reply, what)

    # ---- how full it is, and the bucket

    async def _look(self, link: LinkNames, number: int) -> None:
        from nats import errors
        from nats.js import errors as jetstream_errors

        try:
            stream = await self._ask(f"$JS.API.STREAM.INFO.{link.stream}", {"subjects_filter": ">"})
            consumer = await self._ask(f"$JS.API.CONSUMER.INFO.{link.stream}.{link.durable}", {})
        except (errors.Error, jetstream_errors.Error, TimeoutError):
            return  # nobody answers while a leader is elected: the link asks again
        if self._is_another(f"the stream {link.stream}", stream, NO_STREAM):
            self._deleted(f"the stream {link.stream}", "what was in it is gone")
        if self.lost or "error" in stream:
            return
        state = stream["state"]
        subjects: dict[str, int] = state.get("subjects") or {}
        parcels, made = int(state["messages"]), "error" not in consumer
        durable = f"the consumer {link.durable} of {link.stream}"
        if link.stream in self._links and self._is_another(durable, consumer, NO_CONSUMER):
            self._deleted(durable, "what was delivered comes again")
            return
        pending = int(consumer["num_pending"]) if made else parcels
        last = int(consumer["delivered"]["stream_seq"]) if made else 0
        self._heard(
            link,
            Figures(
                number,
                first=int(state["first_seq"]),
                messages=sum(names.messages_of(subject) * many for subject, many in subjects.items()),
                bytes=int(state["bytes"]),
                parcels=parcels,
                pending=pending,
                ack_pending=int(consumer["num_ack_pending"]) if made else 0,
                all_delivered=not pending and last >= int(state["last_seq"]),
            ),
        )

    async def _ask(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._client.request(subject, json.dumps(body).encode(), timeout=ANSWER_S)
        return dict(json.loads(answer.data))

    def _is_another(self, what: str, answer: dict[str, Any], gone: int) -> bool:
        """Whether the thing that was there when the connection was opened is gone, or was made anew by another instance."""
        if "error" in answer:
            return bool(answer["error"].get("err_code") == gone)
        made = str(answer["created"])
        return self._created.setdefault(what, made) != made

    def _deleted(self, what: str, loss: str) -> None:
        """Has the connection opened anew, which makes all that is missing."""
        self.lose(f"somebody has deleted {what}: {loss}, and it is made anew")

    async def _watch_bucket(self) -> None:
        """Loses the connection if the bucket was deleted: instances write where they stand only when that changes, so all of them
        have to write into the new bucket again."""
        name = names.bucket(self._pipeline)
        while True:
            with suppress(*_no_answer()):
                if self._is_another("the bucket", await self._ask(f"$JS.API.STREAM.INFO.KV_{name}", {}), NO_STREAM):
                    self._deleted(f"the bucket {name}", "each instance writes again where it stands")
            await asyncio.sleep(BUCKET_LOOK_S)

    async def _write(self, order: Write) -> None:
        with suppress(*_no_answer()):  # it is written again when nothing is heard of it
            await self._bucket.put(order.key, order.value)
            self._heard(None, Written(order.key, order.value))

    async def _forget(self, order: Forget) -> None:
        """Purges entries. To delete them would leave a mark of each."""
        bucket = names.bucket(self._pipeline)
        for key in order.keys:
            with suppress(*_no_answer()):  # the next instance that reads the bucket forgets them
                await self._jetstream.purge_stream(f"KV_{bucket}", subject=f"$KV.{bucket}.{key}")

    async def _read_all(self) -> None:
        """Reads what was written before this life listened, and tries until somebody answers, which takes as long as an election.
        Then reads from time to time where the producers of this instance's inputs stand: while servers find each other again,
        this one's server may miss what others were told, and may give an older entry when it is asked."""
        from nats.js import errors as jetstream_errors

        again, inputs = False, tuple(key_prefix(*names[1:]) for names in self._links.values())
        while True:
            try:
                with suppress(jetstream_errors.NoKeysError):
                    keys = await self._bucket.keys()
                    await self._read([key for key in keys if not again or key.startswith(inputs)], again)
            except _no_answer():
                await asyncio.sleep(SWEEP_S)
                continue
            if not again:
                self._heard(None, AllHeard())
            if not inputs:
                return
            again = True
            await asyncio.sleep(READ_AGAIN_S)

    async def _read(self, keys: Sequence[str], again: bool) -> None:
        from nats.js import errors as jetstream_errors

        for key in keys:
            with suppress(jetstream_errors.KeyNotFoundError):
                entry = await self._bucket.get(key)
                self._heard(None, Heard(key, entry.value or b"", live=False, again=again))

    async def _entry_written(self, message: Any) -> None:
        """An entry was written, or deleted, which is a message without data."""
        self._heard(None, Heard(message.subject.removeprefix(self._subject), message.data or b"", live=True))


# ---- what the server says


def _publish_problem(message: Any) -> tuple[str, bool]:
    """Why a parcel was not stored ("" if it was), and whether that is for want of room."""
    if _is_no_responder(message):
        return "no stream takes it: its servers elect a leader, or are not there", False
    try:
        answer = json.loads(message.data)
    except ValueError:
        return "its answer cannot be read", False
    error = answer.get("error")
    if error is None:
        return ("", False) if "stream" in answer else ("its answer names no stream", False)
    words = str(error.get("description", "an error without a word"))
    return words, error.get("err_code") in STREAM_FULL or "maximum bytes" in words


def _is_no_responder(message: Any) -> bool:
    return not message.data and bool(message.headers) and message.headers.get("Status") == "503"


def _why(error: BaseException | None) -> str:
    """Why `open` has failed, in words."""
    return str(error if isinstance(error, AccessError | ValueError) else connection.jetstream_problem(error))


def _no_answer() -> tuple[type[BaseException], ...]:
    from nats import errors
    from nats.js import errors as jetstream_errors

    return (errors.Error, jetstream_errors.Error, TimeoutError)
