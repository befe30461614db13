"""Dead letters that are messages again: what is counted, what is finished when, and what is a letter once more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zpipe.core import events
from zpipe.core.actions import RemoveLetter, Reply, SendDeadLetter, StartTask, StoreDeadLetter, TakeLetters
from zpipe.core.policy import BatchPolicy, RetryPolicy, StagePolicy
from zpipe.core.processing.replays import Revived, replay_of
from zpipe.core.stage import Stage
from zpipe.core.telemetry.snapshot import broken
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.wire import section
from zpipe.core.wire.frames import Refuse, Request, read, write
from zpipe.core.work.task import DEAD, Chunk, Failure, Result, Task, Verdict
from zpipe.testing import seeded_bytes
from zpipe.testing.invariants import breaches


def letter(number: int) -> Revived:
    return Revived(number, section.encode([f"id:{number}"], [1.0], [{"n": number}], None))


def stage(
    links: list[tuple[str, str]] | None = None, attempts: int = 1, batch: BatchPolicy | None = None, workers: int = 2
) -> Stage:
    policy = StagePolicy(retry=RetryPolicy(attempts=attempts), batch=batch, workers=workers)
    made = Stage(Identity("p", "work", 1, "i"), [("read", "")], links or [], policy, 0.0, seeded_bytes("random"))
    made.handle(events.Opened(), 0.0)
    return made


class Shell:
    """Performs what the core asks for, at once or when told to."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.tasks: list[Task] = []
        self.letters: list[StoreDeadLetter | SendDeadLetter] = []
        self.removals: list[int] = []
        self.turn()

    def turn(self, now: float = 0.0) -> None:
        for action in self.stage.turn(now):
            match action:
                case StartTask(task):
                    self.tasks.append(task)
                case StoreDeadLetter() | SendDeadLetter():
                    self.letters.append(action)
                case RemoveLetter(number):
                    self.removals.append(number)
        assert list(breaches(self.stage, 1000, 1000)) == []
        assert broken(self.stage.snapshot(now)) == []

    def finish(self, task: Task, good: bool) -> None:
        self.tasks.remove(task)
        failures = [] if good else [Failure(n, "no", verdict=Verdict.REJECT) for n in range(task.count)]
        self.stage.handle(events.CallFinished(task, Result([], failures=failures)), 0.0)
        self.turn()

    def written(self) -> None:
        for action in self.letters:
            self.stage.processing.dead_letters.written(action.letter, True, 0.0)
        self.letters = []
        self.turn()

    def removed(self) -> None:
        for number in self.removals:
            self.stage.processing.replays.removed(number)
        self.removals = []


@given(st.lists(st.sampled_from(["take", "good", "bad", "written", "removed"]), max_size=60))
def test_a_letter_goes_or_stays_and_the_counts_add_up(steps: list[str]) -> None:
    shell = Shell(stage())
    counts, replays = shell.stage.counts, shell.stage.processing.replays
    taken = gone = dead = 0
    for step in steps:
        if step == "take" and shell.stage.letters.wanted:
            taken += 1
            shell.stage.handle(events.LettersRevived([letter(taken)]), 0.0)
            shell.turn()
        elif step in ("good", "bad") and shell.tasks:
            shell.finish(shell.tasks[0], step == "good")
        elif step == "written":
            dead += len(shell.letters)
            shell.written()
        elif step == "removed":
            gone += len(shell.removals)
            shell.removed()
        assert (counts.received, counts.replayed, counts.dead) == (taken, taken, dead)
        assert len(replays) == taken - gone - dead
    while shell.tasks:
        shell.finish(shell.tasks[0], True)
    dead += len(shell.letters)
    shell.written()
    gone += len(shell.removals)
    shell.removed()
    assert len(replays) == replays.in_process == counts.in_process == 0
    assert gone + dead == taken


def test_the_row_stays_until_what_was_made_of_it_is_acked() -> None:
    shell = Shell(stage(links=[("", "store")]))
    shell.stage.handle(events.LettersRevived([letter(7)]), 0.0)
    shell.turn()
    (task,) = shell.tasks
    assert (task.attempt, task.history.attempts) == (1, 0)
    assert task.slices[0].section.columns()[0] == ["id:7"]
    output = Chunk("", 1, section.encode(["id:7"], [1.0], [1], None), [0])
    shell.stage.handle(events.CallFinished(task, Result([output])), 0.0)
    shell.turn()
    assert shell.removals == [] and len(shell.stage.processing.replays) == 1
    (outlet,) = shell.stage.sessions.outlets
    outlet._unsent[0].settle()  # as its ack would
    shell.turn()
    assert shell.removals == [7]


def test_an_attempt_is_retried_before_it_is_a_letter_again() -> None:
    shell = Shell(stage(attempts=2))
    shell.stage.handle(events.LettersRevived([letter(7)]), 0.0)
    shell.turn()
    for _ in range(2):
        (task,) = shell.tasks
        shell.tasks.clear()
        shell.stage.handle(events.CallFinished(task, Result([], failures=[Failure(0, "no")])), 0.0)
        shell.turn(100.0 if not shell.tasks else 0.0)
        if shell.letters:
            break
        shell.turn(100.0)
    (action,) = shell.letters
    replay = replay_of(action.letter.piece)
    assert replay is not None and replay.number == 7 and action.letter.history.attempts == 2
    shell.written()
    assert shell.removals == [] and len(shell.stage.processing.replays) == 0


def test_replays_do_not_count_for_the_circuit_breaker() -> None:
    shell = Shell(stage(workers=1))
    for number in range(300):
        shell.stage.handle(events.LettersRevived([letter(number)]), 0.0)
        shell.turn()
        shell.finish(shell.tasks[0], False)
        shell.written()
    assert shell.stage.processing.breaker.may_take


def test_one_that_ended_lives_of_the_stage_runs_alone_and_is_given_up() -> None:
    shell = Shell(stage(workers=4))
    deaths = shell.stage.policy.retry.deaths
    suspect = Revived(1, letter(1).body, suspicion=2)
    hopeless = Revived(2, letter(2).body, suspicion=deaths + 1)
    shell.stage.handle(events.LettersRevived([suspect, hopeless, letter(3)]), 0.0)
    shell.turn()
    (task,) = shell.tasks
    assert (task.alone, task.history.deaths) == (True, 1)
    shell.finish(task, True)
    (action,) = shell.letters
    assert f"ended the process of a worker {deaths} times" in action.letter.reason
    assert [task.alone for task in shell.tasks] == [False]


def test_a_stage_that_takes_batches_gets_them_together() -> None:
    shell = Shell(stage(batch=BatchPolicy(messages=4)))
    shell.stage.handle(events.LettersRevived([letter(n) for n in range(6)]), 0.0)
    shell.turn()
    assert [task.count for task in shell.tasks] == [4, 2]


def test_they_leave_by_the_outlet_that_a_stage_reads() -> None:
    """Then the letter is finished when the stage below has acked it."""
    shell = Shell(stage(links=[(DEAD, "bad")]))
    shell.stage.handle(events.LettersRevived([letter(7)]), 0.0)
    shell.turn()
    shell.finish(shell.tasks[0], False)
    (action,) = shell.letters
    assert isinstance(action, SendDeadLetter)
    shell.stage.processing.dead_letters.posted(action.letter, section.encode(["id:7.dead"], [1.0], [{}], None))
    shell.turn()
    (outlet,) = shell.stage.sessions.outlets
    assert (shell.stage.counts.dead, outlet.unsent_messages, shell.removals) == (1, 1, [])


def ask(stage: Stage) -> tuple[object, bool]:
    stage.handle(events.FeedbackReceived(b"r", write(Request(1, "replay")), "uid 0, pid 1"), 0.0)
    actions = stage.turn(0.0)
    (reply,) = [read(action.frame) for action in actions if isinstance(action, Reply)]
    return reply, any(isinstance(action, TakeLetters) for action in actions)


def test_it_is_asked_for_by_a_request() -> None:
    _, asked = ask(stage())
    assert asked
    head = Stage(Identity("p", "read", 1, "i"), [], [("", "work")], StagePolicy(), 0.0, seeded_bytes("random"))
    head.handle(events.Opened(), 0.0)
    reply, asked = ask(head)
    assert isinstance(reply, Refuse) and not asked


def test_none_are_taken_while_paused_leaving_or_draining() -> None:
    one = stage()
    assert one.letters.wanted
    one.handle(events.OrderGiven("pause"), 0.0)
    assert not one.letters.wanted
    one.handle(events.OrderGiven("resume"), 0.0)
    one.handle(events.OrderGiven("leave"), 0.0)
    assert not one.letters.wanted
