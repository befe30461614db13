"""Processing: from the queue to the workers and back, with retries and dead letters on the way.

May live here: which messages go to a worker next and what a result means for the counts and the ledger. It knows no session
and no socket; outputs go to the downstream, finished inputs to their deliveries.
"""

from __future__ import annotations

from collections.abc import Callable

from zpipe.core.downstream.downstream import Downstream
from zpipe.core.ledger import Counts, Derivation, EachDerivation
from zpipe.core.limit.limiter import Limiter
from zpipe.core.policy import BatchPolicy, LimitPolicy, StagePolicy
from zpipe.core.processing.circuit_breaker import CircuitBreaker
from zpipe.core.processing.dead_letters import DeadLetters
from zpipe.core.processing.held_messages import HeldMessages
from zpipe.core.processing.hook_timer import HookTimer
from zpipe.core.processing.replays import Replays, Revived, replay_of
from zpipe.core.processing.retries import Retries
from zpipe.core.processing.service_rate import ServiceRate
from zpipe.core.processing.time_budget import Histogram, TimeBudget
from zpipe.core.upstream.inlet import Inlet
from zpipe.core.work.delivery import Slice
from zpipe.core.work.task import FIRST_CALL, CallHistory, Chunk, DeadLetter, Failure, Result, Task, Verdict

NEVER = float("inf")


class Processing:
    """`jitter` gives numbers in [0, 1): the core has no randomness of its own."""

    def __init__(
        self,
        policy: StagePolicy,
        counts: Counts,
        inlet: Inlet,
        downstream: Downstream,
        jitter: Callable[[], float],
        now: float,
    ) -> None:
        self.tasks: dict[int, Task] = {}
        self.paused = False
        self.retries = Retries(policy.retry)
        self.limiter = Limiter(policy.limit, now)
        self.replays = Replays()
        self.breaker = CircuitBreaker(policy.dead)
        self.budget = TimeBudget(policy.workers, now)
        self.in_stage = Histogram()
        self.since_origin = Histogram()
        self.dead_letters = DeadLetters(counts, inlet, downstream, self.breaker, self.replays)
        self.held = HeldMessages(counts, inlet, downstream, self.dead_letters, self.replays)
        self.hook_timer = HookTimer(policy.tick_s, policy.flushes, now) if policy.tick_s or policy.flushes else None
        self._service_rate = ServiceRate(policy.workers)
        self._policy = policy
        self._counts = counts
        self._inlet = inlet
        self._downstream = downstream
        self._jitter = jitter
        self._number = 0
        self._served = True  # since the window was sized
        self._idle_as = "waiting"  # what idle workers wait for now
        self._alone = False  # a task is under way that no other may run beside

    # ---- to the workers

    def start(self, now: float, flush: bool) -> list[Task]:
        """The tasks to start now, while a worker is free and outputs have room: retries that are due, letters to be tried
        again, then what is queued."""
        started: list[Task] = []
        while self.has_work and self._has_free_worker() and self.limiter.may_start(now):
            task = self._next(now, flush)
            if task is None:
                break
            started.append(task)
        return started

    @property
    def has_work(self) -> bool:
        """Something waits for a worker, now or later."""
        return bool(self._inlet.queue or self.retries.messages or self.replays.waiting)

    def call_hooks(self, now: float, ending: bool, leaving: bool) -> list[Task]:
        """The call of a hook that has no messages, if one is due. `ending`: nothing more comes."""
        timer, counts = self.hook_timer, self._counts
        if timer is None or self.held.handed_back or not self._has_free_worker():
            return []
        hook = timer.due(now, ending and self._holds_the_rest, counts.received)
        if hook is None:
            return []
        timer.begin()
        self.spend(now)
        self._number += 1
        task = self.tasks[self._number] = Task(self._number, [], CallHistory(), batch=True, hook=hook, leaving=leaving)
        return [task]

    def next_hook_at(self, now: float) -> float:
        """When `call_hooks` should be called although nothing happens."""
        if self.hook_timer is None or self.held.handed_back or not self._has_free_worker():
            return NEVER
        return self.hook_timer.next_at(now)

    def _hook_done(self, task: Task, result: Result, leaving: bool, now: float) -> None:
        del self.tasks[task.number]
        assert self.hook_timer is not None
        self.hook_timer.done(task.hook, bool(result.failures), leaving, now, self._counts.received)
        if result.releases is not None:
            self.held.release(result.releases)

    @property
    def owes_flush(self) -> bool:
        """A flush is due before the end, or a hook is being called."""
        return self.hook_timer is not None and self.hook_timer.owes_flush(self._counts.received)

    @property
    def _holds_the_rest(self) -> bool:
        """Nothing is to be worked on but what is held."""
        return not (self.tasks or self._counts.queued) and self._counts.in_process == len(self.held)

    @property
    def held_fill_queue(self) -> bool:
        """What is held leaves no room for more: only the plugin's next tick can change that."""
        return bool(len(self.held)) and self._holds_the_rest and self._inlet.out_of_credit

    def hand_back_held(self, now: float) -> None:
        """(Leaving) what the plugin still holds after its flush goes back."""
        if len(self.held) and self._holds_the_rest and not self.owes_flush:
            self.held.hand_back(now)

    def _next(self, now: float, flush: bool) -> Task | None:
        """The next task, if there is one that may start now."""
        first = self._inlet.next
        if self.replays.waiting or (first is not None and first.section.suspicion):
            self._give_up()
            first = self._inlet.next
        if self.retries.messages and self.retries.next_at <= now:
            if self._must_wait(self.retries.first()):
                return None
            self._counts.retries += 1
            self._served = True
            return self._begin(*self.retries.pop(), now)
        if self.replays.waiting:
            if self._must_wait(self.replays.waiting[0]):
                return None
            slices = self.replays.take(self._policy.batch.messages if self._policy.batch is not None else 1)
        elif first is None or self._ready_at(first, now, flush) > now:
            return None
        else:
            slices = self._take()
        suspicion = slices[0].section.suspicion
        return self._begin(slices, CallHistory(deaths=suspicion - 1) if suspicion else FIRST_CALL, now)

    def _must_wait(self, piece: Slice) -> bool:
        """A suspect is run alone where its call could end others too: otherwise nobody could tell which message did it."""
        return bool(piece.section.suspicion and self.tasks and not self._policy.isolated)

    def _give_up(self) -> None:
        """Makes dead letters of messages next in line whose calls have ended as many processes as the retry policy allows."""
        most = self._policy.retry.deaths
        while True:
            replay, queued = self.replays.next, self._inlet.next
            if replay is not None and replay.section.suspicion > most:
                [piece] = self.replays.take(1)
            elif queued is not None and queued.section.suspicion > most:
                [piece] = self._inlet.take(1, 0)
            else:
                return
            deaths = piece.section.suspicion - 1
            reason = f"its calls ended the process of a worker {deaths} times"
            self.dead_letters.add(DeadLetter(reason, "", CallHistory(deaths=deaths), piece))

    def _has_free_worker(self) -> bool:
        """Whether a task may start: one more than there are workers while calls are short, so that a worker need not wait for the
        loop between them. A batch is started ahead only if it is full: any other may grow until a worker is free."""
        if self.paused or self._alone or self._downstream.full:
            return False
        if (more := len(self.tasks) - self._policy.workers) < 0:
            return True
        if more or self.limiter.limited:
            return False
        call_s, batch = self._service_rate.service_s or 1.0, self._policy.batch
        if batch is not None:
            call_s *= batch.messages
            return call_s < self._service_rate.ahead_s and self._is_full(batch)
        return call_s < self._service_rate.ahead_s

    def _is_full(self, batch: BatchPolicy) -> bool:
        """As many messages are queued as make a batch."""
        return self._counts.queued >= batch.messages or self._inlet.queued_bytes >= batch.bytes

    @property
    def may_read(self) -> bool:
        """(A head) more may be taken from the source."""
        return not self.paused and self.breaker.may_take

    @property
    def halted(self) -> bool:
        """Nothing is worked on, and nothing will be before letters in hand are acked, or an operator helps."""
        return not self._counts.in_process and (self.replays.full or not self.breaker.may_take)

    def _ready_at(self, first: Slice, now: float, flush: bool) -> float:
        """When messages may be taken from the queue, of which `first` is the first; infinity while none may. A batch waits until
        it is full, or until the oldest of it has waited for its timeout; `flush`: nothing more can come that would fill it."""
        inlet, batch = self._inlet, self._policy.batch
        if not self.breaker.may_take or (first.section.suspicion and self._must_wait(first)):
            return NEVER
        if batch is None or flush or first.section.suspicion or self._is_full(batch):
            return now
        return inlet.oldest_at + batch.timeout_s

    def _take(self) -> list[Slice]:
        policy = self._policy
        if policy.batch is not None:
            return self._inlet.take(policy.batch.messages, policy.batch.bytes)
        if self.limiter.limited:  # a task is one call, or the calls could not be counted
            return self._inlet.take(1, policy.link.parcel_bytes)
        share = most = -(-self._counts.queued // policy.workers)
        if share > 1:
            most = min(self._service_rate.task_messages(policy.link.parcel_messages), share)
        return self._inlet.take(most, policy.link.parcel_bytes)

    def _begin(self, slices: list[Slice], history: CallHistory, now: float) -> Task:
        self.spend(now)
        self._number += 1
        self.limiter.started(now)
        self._alone = alone = bool(slices[0].section.suspicion) and not self._policy.isolated
        task = Task(self._number, slices, history, self._policy.batch is not None, alone)
        self.tasks[task.number] = task
        return task

    # ---- and back

    def emitted(self, task: Task, chunks: list[Chunk]) -> None:
        """Outputs of a task that is still under way."""
        if task.derivation is None:
            task.derivation = Derivation([])
        self._counts.unrouted += self._downstream.offer(chunks, task.derivation)

    def done(self, task: Task, result: Result, now: float, leaving: bool = False) -> bool:
        """A task came back. Its messages are completed, filtered, held, to be tried again, or dead letters to be written. True if
        they are nothing but completed or filtered, and came from producers."""
        self.spend(now)
        if task.hook:
            self._hook_done(task, result, leaving, now)
            return False
        self._served = True
        del self.tasks[task.number]
        self._alone = False
        self.limiter.ended(task, result, now)
        # A refusal says nothing of the service rate.
        if not (result.failures and result.failures[0].verdict is Verdict.THROTTLED):
            self._service_rate.measure(task.count, result.seconds)
        failed = {failure.index for failure in result.failures} if result.failures else set()
        apart = failed.union(result.held) if result.held else failed
        self._counts.finish(completed=task.count - len(apart) - result.filtered, filtered=result.filtered)
        replayed = replay_of(task.slices[0]) is not None
        if not replayed:
            self.breaker.succeeded(task.count - len(failed))
        else:
            self.replays.processed(task.count - len(apart))
        good = task.without(apart) if apart else task.slices
        for piece in good:
            self._inlet.release(piece)
        self._derive(task, result.chunks, good, apart)
        if result.held:
            self.held.hold(task, result.held)
        if result.releases is not None:
            self.held.release(result.releases)
        self.in_stage.add(now - task.slices[0].arrived_at, task.count)
        for age in result.ages:
            self.since_origin.add(age, 1)
        if failed:
            self._fail(task, result.failures, now)
        return not (apart or replayed or result.releases is not None)

    @property
    def is_plain(self) -> bool:
        """What is queued is worked on at once, for as long as no task comes back with anything but completed messages."""
        policy = self._policy
        stands = self.paused or not self.breaker.may_take or self.hook_timer is not None
        kept = self.retries.messages or len(self.replays) or len(self.held)
        return not (stands or kept or self.limiter.limited or policy.batch is not None)

    def _derive(self, task: Task, chunks: list[Chunk], good: list[Slice], failed: set[int]) -> None:
        """Hands the outputs on, and ties the inputs to them: each to its own, where it is known which are whose."""
        if task.count > 1 and chunks and task.derivation is None and all(chunk.owners is not None for chunk in chunks):
            each = EachDerivation(task.slices)
            self._counts.unrouted += self._downstream.offer(chunks, each)
            each.close_but(failed)
            return
        derivation = task.derivation
        if derivation is None:
            derivation = Derivation(good)
        else:
            derivation.add_inputs(good)
        self._counts.unrouted += self._downstream.offer(chunks, derivation)
        derivation.close()

    def _fail(self, task: Task, failures: list[Failure], now: float) -> None:
        if task.batch and task.count > 1 and len(failures) == task.count and len(set(map(_how, failures))) == 1:
            self._fail_batch(task, failures[0], now)
            return
        for failure in failures:
            piece, history = task.at(failure.index), task.history.after(failure)
            if failure.verdict is Verdict.REJECT or self.retries.exhausted(history):
                self.dead_letters.add(DeadLetter(failure.reason, failure.traceback, history, piece))
            else:
                self._try_again([piece], failure, history, now)

    def _fail_batch(self, task: Task, failure: Failure, now: float) -> None:
        """A batch failed as a whole. If the plugin asks for a delay, the whole batch waits. Otherwise it is halved until the
        bad message is alone: only then an attempt is counted, and the good messages need not wait for it."""
        history = task.history.after(failure)
        if failure.verdict is Verdict.REJECT:
            for index in range(task.count):
                self.dead_letters.add(DeadLetter(failure.reason, failure.traceback, history, task.at(index)))
        elif failure.verdict is Verdict.THROTTLED or (
            failure.delay_s is not None and not self.retries.exhausted(history)
        ):
            self._try_again(task.slices, failure, history, now)
        else:
            for half in task.halves():
                self.retries.add(half, CallHistory(), now)

    def _try_again(self, slices: list[Slice], failure: Failure, history: CallHistory, now: float) -> None:
        self.retries.add(slices, history, now + self.retries.delay_s(failure, history, self._jitter()))

    def pause(self, paused: bool) -> None:
        """Starts nothing until told otherwise. To go on is also to try again after too many dead letters."""
        self.paused = paused
        if not paused:
            self.breaker.reset()

    def set_limit(self, limit: LimitPolicy | None, now: float) -> None:
        """Another limit on calls from now on; those under way go on, and count."""
        self._served = True
        self.limiter.change(limit, now)

    # ---- dead letters

    def replay(self, letters: list[Revived], now: float) -> None:
        """Dead letters are messages again, as if they had just come. Must not be called with more than `replays` takes."""
        self._counts.receive(in_process=len(letters))
        self._counts.replayed += len(letters)
        self.replays.add(letters, now)

    # ---- time

    def next_at(self, now: float, flush: bool) -> float:
        """When `start` or `dead_letters.take` should be called although nothing happens."""
        at = self.dead_letters.next_at()
        if not self.has_work or not self._has_free_worker():
            return at
        work_at = self.retries.next_at
        if self.retries.messages and self._must_wait(self.retries.first()):
            if work_at <= now:
                return at  # it is the next, and waits for the others to come back
            work_at = NEVER
        if (replay := self.replays.next) is not None:
            work_at = work_at if self._must_wait(replay) else now
        elif (first := self._inlet.next) is not None:
            work_at = min(work_at, self._ready_at(first, now, flush))
        return min(at, max(work_at, self.limiter.next_at()))

    def size_window(self) -> None:
        """What the inlet may ask its producers for, by the service rate measured so far, if that has changed."""
        if not self._served:
            return
        self._served = False
        policy = self._policy
        self._service_rate.workers = calls = self.limiter.at_once(policy.workers)
        if self.limiter.limited:
            calls *= 2  # a limit doubles in a round trip, if there is work for it
        least = calls if policy.batch is None else (calls + 1) * policy.batch.messages
        self._inlet.rate = self._service_rate.rate
        waiting = self.retries.messages + len(self.held)  # kept here, but nobody's work for now
        most = policy.queue.messages
        self._inlet.window = min(waiting + self._service_rate.window(policy.link.queue_time_s, least, most), most)

    def spend(self, now: float) -> None:
        """Books the time since the last call. To be called before anything changes that decides what it was spent on."""
        self.budget.advance(now, len(self.tasks), self._idle_as)

    def note_idle(self, now: float, left: int | None, awaits_acks: bool) -> None:
        """Why workers are idle from now on. `left`: what a head may read yet; `awaits_acks`: those above wait for our acks."""
        queue, idle_as = self._inlet.queue, "waiting"
        if self._downstream.full or (left is not None and left <= 0 and self.may_read):
            idle_as = "blocked"
        elif (queue or self.retries.next_at <= now) and not self.limiter.may_start(now):
            idle_as = "limited"
        elif self.retries.messages and (self._inlet.out_of_credit or awaits_acks) and not queue:
            idle_as = "retrying"
        if idle_as != self._idle_as:
            self.spend(now)
            self._idle_as = idle_as


def _how(failure: Failure) -> tuple[Verdict, str, float | None]:
    """Equal for all messages of a batch that failed as one; a plugin may also answer for each."""
    return failure.verdict, failure.reason, failure.delay_s
