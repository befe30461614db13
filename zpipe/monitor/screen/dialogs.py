"""What opens over the screen: a question before an action, a page of text, and the tap of a link. Must not live here:
what is asked, and doing it."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, RichLog, Static
from textual.worker import get_current_worker

from zpipe.errors import OperatorError
from zpipe.monitor.screen.actions import Question, Tap

POLL_S = 0.2
MOST_TAPPED = 500
"""Messages kept in the window of a tap."""
_CSS = """
{0} {{ align: center middle; background: $background 60%; }}
{0} > Vertical {{ border: round $primary; background: $surface; padding: 0 1; height: auto; max-height: 90%; }}
{0}.ascii > Vertical {{ border: ascii $primary; }}
{0} #keys {{ color: $text-muted; height: 1; }}
"""


class Ask(ModalScreen[bool]):
    """Says what would be done, in numbers, and asks. Anything but yes is no."""

    DEFAULT_CSS = (
        _CSS.format("Ask")
        + """
    Ask > Vertical { width: 76; max-width: 96%; }
    Ask #title { text-style: bold; }
    Ask .grave { color: $text-error; }
    Ask Horizontal { height: 1; margin-top: 1; align-horizontal: center; }
    Ask Button { margin: 0 2; }
    """
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,Y", "answer(True)", "yes"),
        Binding("n,N,escape,q", "answer(False)", "no"),
        Binding("left,right,tab", "app.focus_next", show=False),
    ]

    def __init__(self, question: Question) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text(self._question.title), id="title", classes="grave" if self._question.grave else "")
            yield Static(Text(self._question.text))
            with Horizontal():
                yield Button("y: yes", id="yes", variant="error" if self._question.grave else "primary", compact=True)
                yield Button("n: no", id="no", compact=True)

    def on_mount(self) -> None:
        # Enter must not do what cannot be taken back.
        self.query_one("#no" if self._question.grave else "#yes", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class Page(ModalScreen[None]):
    """A text that may be longer than the window."""

    DEFAULT_CSS = (
        _CSS.format("Page")
        + """
    Page > Vertical { width: 96%; max-width: 120; }
    Page VerticalScroll { height: auto; max-height: 100%; }
    Page #title { text-style: bold; }
    """
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss", "back"),
        Binding("down,j", "scroll(1)", show=False),
        Binding("up,k", "scroll(-1)", show=False),
        Binding("pagedown,space", "scroll(10)", show=False),
        Binding("pageup", "scroll(-10)", show=False),
    ]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text(self._title), id="title")
            with VerticalScroll(can_focus=False):
                yield Static(Text(self._text))
            yield Static("up, down: move   escape: back", id="keys")

    def action_scroll(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)


class TapWindow(ModalScreen[None]):
    """The messages that pass a link, as they pass: a few a second, whatever the rate is."""

    DEFAULT_CSS = (
        _CSS.format("TapWindow")
        + """
    TapWindow > Vertical { width: 96%; height: 90%; }
    TapWindow #title { text-style: bold; height: 1; }
    TapWindow RichLog { height: 1fr; background: $surface; }
    """
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,t", "dismiss", "back"),
        Binding("space", "hold", "hold"),
    ]

    def __init__(self, link: str, tap: Tap) -> None:
        super().__init__()
        self._link, self._tap = link, tap
        self._held = False

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text(f"tap of {self._link}"), id="title")
            yield RichLog(max_lines=MOST_TAPPED * 4, wrap=True, id="log")
            yield Static("space: hold, go on   escape: back", id="keys")

    def on_mount(self) -> None:
        widget = self.query_one(RichLog)
        widget.can_focus = False
        self.run_worker(self._listen, thread=True, exclusive=True)

    def _listen(self) -> None:
        """In a thread of its own, since a tap waits for what passes."""
        worker = get_current_worker()
        try:
            while not worker.is_cancelled:
                seen = self._tap.poll(POLL_S)
                if seen and not self._held and not worker.is_cancelled:
                    self.app.call_from_thread(self._show, seen)
        except OperatorError as error:
            if not worker.is_cancelled:
                self.app.call_from_thread(self._show, [(str(error), "")])
        finally:
            self._tap.close()

    def _show(self, seen: list[tuple[str, str]]) -> None:
        log = self.query_one(RichLog)
        for heading, body in seen:
            log.write(Text(heading, style="bold"))
            if body:
                log.write(Text(body))

    def action_hold(self) -> None:
        self._held = not self._held
        self.query_one("#title", Static).update(Text(f"tap of {self._link}{' (held)' if self._held else ''}"))
