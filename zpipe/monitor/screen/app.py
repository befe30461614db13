"""The screen of `zpipe monitor`: its widgets, keys and mouse. What it shows is made by the views, which know nothing of Textual.

Must not live here: figures, and words about them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

from textual.app import App, ComposeResult, SystemCommand
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.events import Resize
from textual.screen import Screen
from textual.widgets import Footer, Input

from zpipe.config import PipelineConfig
from zpipe.errors import OperatorError
from zpipe.monitor.formatting import clock
from zpipe.monitor.screen import actions, keys
from zpipe.monitor.screen.actions import Operator, Question
from zpipe.monitor.screen.canvas import Canvas, Palette, TimeLine
from zpipe.monitor.screen.dialogs import Ask, Page, TapWindow
from zpipe.monitor.screen.header import NAMES, SentenceRoom, header, sentence, tabs
from zpipe.monitor.screen.pane import Choice, Letters, Pane, Shown, View, link_name, nearest
from zpipe.monitor.screen.source import RecordedPipeline, Source
from zpipe.monitor.screen.terminal import Terminal
from zpipe.monitor.screen.views import events_view, letters_view, links_view, pipeline_view, stage_view, table_view
from zpipe.monitor.table.glyphs import ASCII, UNICODE, Glyphs

VIEWS: dict[int, Callable[[Shown, Choice, int, int], View]] = {
    1: pipeline_view.view,
    2: table_view.view,
    3: stage_view.view,
    4: links_view.view,
    5: letters_view.view,
    6: events_view.view,
}
SORTS: dict[int, Sequence[str]] = {
    2: tuple(table_view.SORTS),
    3: stage_view.SORTS,
    4: links_view.SORTS,
    5: letters_view.SORTS,
}
LETTERS_S = 3.0
"""Between two readings of the stored letters, while they are shown."""


class MonitorApp(App[None]):
    """`operator` does what is asked; None for a recording. `coloured` and `glyphs`: what the terminal can show."""

    AUTO_FOCUS = None
    CSS = keys.CSS
    HORIZONTAL_BREAKPOINTS = keys.BREAKPOINTS
    BINDINGS: ClassVar[list[BindingType]] = keys.BINDINGS

    def __init__(
        self,
        source: Source,
        config: PipelineConfig,
        operator: Operator | None = None,
        glyphs: Glyphs = UNICODE,
        coloured: bool = True,
    ) -> None:
        super().__init__(ansi_color=not coloured)
        self.title = f"zpipe monitor {config.name}"
        self.source, self.pipeline, self.operator = source, config, operator
        self.choice = Choice()
        self._glyphs, self._coloured = glyphs, coloured
        self._letters = Letters()
        self._back: list[int] = []
        self._filtering = False
        self._palette = Palette({}, coloured)
        self._room = SentenceRoom()
        self._terminal = Terminal()
        if operator is None:
            keys.hide(self._bindings, keys.OF_AN_OPERATOR)

    # ---- what there is

    def compose(self) -> ComposeResult:
        yield Canvas("header")
        yield Canvas("tabs")
        yield Canvas("sentence")
        with Vertical(id="body"):
            with Horizontal(id="upper"):
                yield Canvas("main")
                yield Canvas("side")
            yield Canvas("below")
        yield TimeLine("time", is_replay=self.source.replay is not None)
        field = Input(placeholder="words that must stand in a row", id="filter", compact=True)
        field.can_focus = False
        yield field
        yield Footer(compact=True)

    def on_mount(self) -> None:
        if not self._coloured:
            self.theme = "ansi-dark"
        elif (wanted := os.environ.get("ZPIPE_THEME", "")) in self.available_themes:
            self.theme = wanted
        self.set_class(self._glyphs is ASCII, "ascii")
        self._terminal.on_signal(self._end)
        self._recolour()
        self.theme_changed_signal.subscribe(self, lambda _: self._recolour())
        # What stood on the terminal before ctrl+z is gone, and Textual by itself draws only what has changed since.
        self.app_resume_signal.subscribe(self, lambda _: self.refresh(layout=True))
        self._turn()
        self.set_interval(LETTERS_S, self._read_letters)
        self.call_after_refresh(self.redraw)

    @property
    def ended_by(self) -> int:
        """The signal that ended it; 0: none did."""
        return self._terminal.ended_by

    def _end(self, number: int) -> None:
        """Unwinds, so that the terminal is given back."""
        self._terminal.end(number)
        self.exit()

    def _recolour(self) -> None:
        self._palette = Palette(self.theme_variables, self._coloured)
        self.redraw()

    def on_resize(self, event: Resize) -> None:
        self.call_after_refresh(self.redraw)

    def _turn(self) -> None:
        if self._terminal.gone:
            self._end(signal.SIGHUP)
            return
        wait_s, drawn = self.source.turn()
        if self.source.over:
            self.exit()
            return
        if drawn:
            self.redraw()
        if wait_s < 3600.0:
            self._timer_of_turn = self.set_timer(wait_s, self._turn)

    # ---- drawing

    @property
    def shown(self) -> Shown:
        source = self.source
        return Shown(
            source.value,
            source.history,
            source.events,
            clock(source.value["at"]),
            self.pipeline,
            source.waits,
            self._letters,
            source.replay,
            self._glyphs,
        )

    def redraw(self) -> None:
        """Draws everything that is in the window from what is known now."""
        if not self.is_running or not self.screen_stack:
            return
        base = self.screen_stack[0]
        if not base.query("#main"):
            return
        shown, (width, height) = self.shown, self.size
        top = header(shown, width, height)
        said = self._room.fill(shown.value, sentence(shown, width, height), self.size)
        self._put(base, "header", Pane(top), len(top))
        self._put(base, "tabs", tabs(self.choice, SORTS.get(self.choice.view, ()), width), 1)
        self._put(base, "sentence", Pane(said), len(said))
        extra = int(self._filtering or bool(self.choice.filter())) + int(shown.replay is not None)
        room = max(height - len(top) - len(said) - 2 - extra, 1)
        view = VIEWS[self.choice.view](shown, self.choice, width, room)
        side = base.query_one("#side", Canvas)
        _set(side, "width", view.side_width if view.side is not None else 0)
        side.show(view.side or Pane(), self._palette)
        self._put(base, "below", view.below or Pane(), len(view.below.lines) if view.below else 0)
        base.query_one("#main", Canvas).show(view.main, self._palette)
        if shown.replay is not None:
            base.query_one(TimeLine).show(shown.replay, self._palette, shown.ascii)

    def _put(self, base: Screen[Any], name: str, pane: Pane, lines: int) -> None:
        canvas = base.query_one(f"#{name}", Canvas)
        _set(canvas, "height", lines)
        canvas.show(pane, self._palette)

    # ---- choosing

    def on_canvas_picked(self, event: Canvas.Picked) -> None:
        kind, _, name = event.key.partition(":")
        if kind == "view":
            self.action_view(int(name))
        elif kind == "sort":
            order = SORTS[self.choice.view]
            self.choice.sort[self.choice.view] = list(order).index(name)
            self.redraw()
        elif event.times > 1 or self.choice.row.get(self.choice.view) == event.key:
            self._choose(event.key)
            self.action_open()
        else:
            self._choose(event.key)

    def _choose(self, key: str) -> None:
        self.choice.row[self.choice.view] = key
        kind, _, name = key.partition(":")
        if kind == "stage":
            self.choice.stage = name
        elif kind == "link":
            self.choice.link = name
        self.redraw()
        self.query_one("#main", Canvas).keep(key)

    @property
    def _row(self) -> tuple[str, str]:
        kind, _, name = self.choice.row.get(self.choice.view, "").partition(":")
        return kind, name

    @property
    def _stage(self) -> str:
        """The stage that an action is about: the chosen one, the one the view is about, or that which holds the pipeline up."""
        kind, name = self._row
        value = self.source.value
        if kind == "stage":
            return name
        if kind in ("instance", "missing"):
            return name.rpartition(".")[0]
        if self.choice.view in (1, 2, 3) and self.choice.stage in value["stages"]:
            return self.choice.stage
        return str((value["bottleneck"] or {}).get("stage") or "")

    def action_move(self, across: int, down: int) -> None:
        pane = self.query_one("#main", Canvas).pane
        rows = pane.keys()
        if not rows:
            return
        chosen = self.choice.row.get(self.choice.view, "")
        if chosen not in rows:
            limit = f"stage:{(self.source.value['bottleneck'] or {}).get('stage')}"
            first = limit if self.choice.view == 1 and limit in rows else rows[0]
            self._choose(rows[-1] if down > keys.PAGE else first)  # the end is the end, whatever was chosen
            return
        here = pane.region(chosen)
        if self.choice.view == 1 and here is not None and here.width < 10_000 and abs(down) <= 1:
            self._choose(nearest(pane.regions, here, across, down))
            return
        at = rows.index(chosen) + down + across
        self._choose(rows[min(max(at, 0), len(rows) - 1)])

    def action_view(self, number: int) -> None:
        if number != self.choice.view:
            self._back.append(self.choice.view)
            del self._back[:-20]
            self.choice.view = number
        self._end_filter()
        if number == 5:
            self._read_letters()
        base = self.screen_stack[0]
        base.query_one("#main", Canvas).scroll_to(0, 0, animate=False, immediate=True)
        self.redraw()
        self.refresh_bindings()

    def action_open(self) -> None:
        kind, name = self._row
        if kind == "stage" and self.choice.view != 3:
            self._go_to(name)
        elif kind == "link" and self.choice.view != 4:
            self.choice.row[4] = f"link:{name}"
            self.action_view(4)
        elif kind in ("reason", "instance"):
            self.choice.unfolded ^= {f"{kind}:{name}"}
            self.redraw()
        elif kind == "letter":
            self._show_letter(name)
        elif kind == "event":
            who = name.split(":", 1)[1].split(" ")[0].rpartition(".")[0]
            if who in self.source.value["stages"]:
                self._go_to(who)
        elif not kind:
            self.action_move(0, 0)

    def action_up(self) -> None:
        if self._filtering or self.choice.filter():
            self.choice.filters.pop(self.choice.view, None)
            field = self.query_one(Input)
            field.value = ""
            self._end_filter()
            self.redraw()
        elif self._back:
            self.choice.view = self._back.pop()
            self.redraw()
            self.refresh_bindings()

    def action_other_stage(self, step: int) -> None:
        names = list(self.source.value["stages"])
        at = names.index(self._stage) if self._stage in names else -step
        self.choice.stage = names[(at + step) % len(names)]
        if self.choice.view == 3:
            self.choice.row.pop(3, None)
            self.redraw()
        else:
            self._choose(f"stage:{self.choice.stage}")

    def action_sort(self) -> None:
        order = SORTS.get(self.choice.view)
        if order:
            self.choice.sort[self.choice.view] = (self.choice.sort.get(self.choice.view, 0) + 1) % len(order)
            self.redraw()

    def action_boxes(self) -> None:
        self.choice.turn_over()
        self.redraw()

    def action_legend(self) -> None:
        self.action_boxes()

    def action_help(self) -> None:
        self.push_screen(Page("Keys", keys.HELP))

    # ---- the filter

    def action_filter(self) -> None:
        field = self.query_one(Input)
        field.value = self.choice.filters.get(self.choice.view, "")
        field.can_focus = field.display = self._filtering = True
        self.screen.set_focus(field)  # at once: the next key may be there already
        self.redraw()

    def _end_filter(self) -> None:
        field = self.query_one(Input)
        self._filtering = False
        field.can_focus = field.display = False
        self.set_focus(None)

    def on_input_changed(self, event: Input.Changed) -> None:
        if self._filtering:
            self.choice.filters[self.choice.view] = event.value
            self.redraw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.choice.filters[self.choice.view] = event.value
        self._end_filter()
        self.redraw()

    # ---- a recording

    def _with_recording(self, do: Callable[[RecordedPipeline], None]) -> None:
        if isinstance(self.source, RecordedPipeline):
            do(self.source)
            self.redraw()

    def action_play(self) -> None:
        self._with_recording(RecordedPipeline.toggle)
        self._turn()

    def action_step(self, intervals: int) -> None:
        self._with_recording(lambda recorded: recorded.step(intervals))

    def action_seek(self, part: float) -> None:
        self._with_recording(lambda recorded: recorded.seek(part))

    def action_faster(self, steps: int) -> None:
        self._with_recording(lambda recorded: recorded.faster(steps))

    def on_time_line_moved(self, event: TimeLine.Moved) -> None:
        self.action_seek(event.part)

    # ---- actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        view, recorded = self.choice.view, self.source.replay is not None
        if action in ("play", "step", "seek", "faster"):
            return recorded
        if action in ("pause", "resume", "drain", "leave", "tap"):
            return (view != 5 or action in ("pause", "drain")) and not (action == "tap" and view == 6)
        if action in ("replay_letters", "drop_letters", "edit_letter"):
            return view == 5
        if action == "sort":
            return view in SORTS
        if action in ("boxes", "legend"):
            return view == (1 if action == "boxes" else 2)
        return True

    def _refuse(self) -> bool:
        """Whether nothing can be asked, because this is a recording."""
        if self.operator is None:
            self.notify("this is a recording: nothing can be asked of it", severity="warning")
        return self.operator is None

    def _ask(self, question: Question, do: Callable[[], str]) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self.run_worker(lambda: self._do(do), thread=True)
            else:
                self.notify("nothing is done", timeout=3)

        self._open(Ask(question), answered)

    def _open(self, window: Any, answered: Callable[[Any], None] | None = None) -> None:
        window.set_class(self._glyphs is ASCII, "ascii")
        self.push_screen(window, answered)

    def _do(self, do: Callable[[], str]) -> None:
        """In a thread: an instance that does not answer must not stop the screen."""
        try:
            text, severity = do(), "information"
        except OperatorError as error:
            text, severity = str(error), "error"
        self.call_from_thread(self.notify, text, severity=severity, markup=False)
        self.call_from_thread(self._read_letters)

    def _ask_stage(self, what: str, question: Callable[[dict[str, Any], str], Question]) -> None:
        operator, stage = self.operator, self._stage
        if self._refuse() or operator is None:
            return
        if not stage:
            self.notify(f"choose the stage to {what} with the arrows", severity="warning")
            return
        self._ask(question(self.source.value, stage), lambda: operator.ask(what, [(stage, None)]))

    def action_pause(self) -> None:
        self._ask_stage("pause", actions.pause)

    def action_resume(self) -> None:
        self._ask_stage("resume", actions.resume)

    def action_drain(self) -> None:
        operator = self.operator
        if self._refuse() or operator is None:
            return
        heads = [(name, None) for name in self.pipeline.heads]
        self._ask(actions.drain(self.source.value), lambda: operator.ask("drain", heads))

    def action_leave(self) -> None:
        operator, (kind, name) = self.operator, self._row
        if self._refuse() or operator is None:
            return
        if kind != "instance":
            self.notify(
                "choose the instance that is to leave: enter on a stage shows its instances", severity="warning"
            )
            return
        stage, _, number = name.rpartition(".")
        question = actions.leave(self.source.value, stage, int(number))
        self._ask(question, lambda: operator.ask("leave", [(stage, int(number))]))

    def action_tap(self) -> None:
        if self._refuse() or self.operator is None:
            return
        link = self._tapped()
        if not link:
            self.notify("no link to tap: this pipeline is one stage", severity="warning")
            return
        try:
            tap = self.operator.tap(link)
        except OperatorError as error:
            self.notify(str(error), severity="error", markup=False)
            return
        self._open(TapWindow(link, tap))

    def _tapped(self) -> str:
        """The chosen link, or the fullest one into the chosen stage, or out of it."""
        kind, name = self._row
        links = self.source.value["links"]
        if kind == "link":
            return name
        if self.choice.view == 4 and links:
            return link_name(links_view.chosen_link(self.shown, self.choice))
        of = [link for link in links if link["to"] == self._stage] or [
            link for link in links if link["from"] == self._stage
        ]
        return link_name(max(of or links, key=lambda link: link["depth"])) if links else ""

    # ---- dead letters

    def _read_letters(self) -> None:
        if self.choice.view == 5 and self.operator is not None:
            self.run_worker(self._fetch_letters, thread=True, group="letters", exclusive=True)
        elif self.choice.view == 5:
            self._letters = Letters(problem="a recording has no stored letters: `zpipe dead list` shows those of now")
            self.redraw()

    def _fetch_letters(self) -> None:
        assert self.operator is not None
        try:
            found = self.operator.letters()
        except OperatorError as error:
            found = Letters(problem=str(error))
        self.call_from_thread(self._take_letters, found)

    def _take_letters(self, found: Letters) -> None:
        if found != self._letters:
            self._letters = found
            self.redraw()

    def _chosen_letters(self) -> list[dict[str, Any]]:
        key = self.choice.row.get(5, "")
        groups = letters_view.folded(self._letters.rows)
        if not key and len(groups) == 1:  # there is nothing else to choose
            key = letters_view.reason_key(groups[0][0], groups[0][1])
        rows = letters_view.letters_of(self.shown, key)
        if not rows:
            self.notify("choose a reason or a letter with the arrows", severity="warning")
        return rows

    def action_replay_letters(self) -> None:
        self._order_for_letters(actions.replay, lambda operator, names: operator.replay(names))

    def action_drop_letters(self) -> None:
        self._order_for_letters(actions.drop, lambda operator, names: operator.drop(names))

    def _order_for_letters(
        self, question: Callable[[Sequence[dict[str, Any]]], Question], order: Callable[[Operator, list[str]], str]
    ) -> None:
        """Asks whether it is meant, then has it done to the chosen letters."""
        operator = self.operator
        if self._refuse() or operator is None or not (rows := self._chosen_letters()):
            return
        names = [row["letter"] for row in rows]
        self._ask(question(rows), lambda: order(operator, names))

    def _show_letter(self, name: str) -> None:
        if self.operator is None:
            return
        try:
            self._open(Page(name, self.operator.page(name)))
        except OperatorError as error:
            self.notify(str(error), severity="error", markup=False)

    def action_edit_letter(self) -> None:
        """In $VISUAL or $EDITOR, which has the terminal meanwhile."""
        import click

        if self._refuse() or self.operator is None or not (rows := self._chosen_letters()):
            return
        name = rows[0]["letter"]
        if self.is_web:
            self.notify(f"an editor needs a terminal: zpipe dead edit {self.pipeline.name} {name}", severity="warning")
            return
        try:
            text = self.operator.editable(name)
            with self.suspend():
                made = click.edit(text, extension=".json")
            said = f"{name} is as it was" if made is None else self.operator.save(name, made)
            self.notify(said, markup=False)
        except (OperatorError, click.ClickException) as error:
            self.notify(str(error), severity="error", markup=False)
        self._read_letters()

    # ---- the palette

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        for number, name in enumerate(NAMES, 1):
            yield SystemCommand(
                f"{number} {name}", f"Go to the view {name}", lambda number=number: self.action_view(number)
            )
        if self.operator is not None:
            yield SystemCommand(
                "Drain the pipeline", "Finish all that is in it, then stop (asks first)", self.action_drain
            )
            for name in self.source.value["stages"]:
                yield SystemCommand(f"Stage {name}", f"Show {name} and its instances", partial(self._go_to, name))
                pause, resume = partial(self._ask_about, name, "pause"), partial(self._ask_about, name, "resume")
                yield SystemCommand(f"Pause {name}", "It starts no work until resumed (asks first)", pause)
                yield SystemCommand(f"Resume {name}", "It goes on (asks first)", resume)
        yield from super().get_system_commands(screen)

    def _go_to(self, stage: str) -> None:
        self.choice.stage = stage
        self.choice.row.pop(3, None)
        self.action_view(3)

    def _ask_about(self, stage: str, what: str) -> None:
        self._go_to(stage)
        self.action_pause() if what == "pause" else self.action_resume()


def _set(widget: Canvas, what: str, cells: int) -> None:
    """Sets a width or a height, if it differs: each change lays the screen out anew."""
    now = getattr(widget.styles, what)
    if now is None or now.cells != cells:
        setattr(widget.styles, what, cells)
        widget.display = cells > 0
