"""The keys of the screens; those of a panel are in its own file."""

from __future__ import annotations

from textual.binding import Binding, BindingType

from simsmoe_cli.monitor.panels import PANELS


def bind(
    scope: str,
    keys: str,
    action: str,
    label: str,
    help: str,
    *,
    group: str = "",
    display: str = "",
    priority: bool = False,
    hidden: bool = False,
) -> Binding:
    """A key that explains itself.

    Args:
        scope: of the id: the screen or panel that the key belongs to.
        keys: separated by commas.
        action: of Textual.
        label: in the footer; "" leaves it out there.
        help: one sentence for the help.
        group: keys of the same group share this label.
        display: how the key is written; "" for its name.
        priority: whether it acts whatever has the focus.
        hidden: whether to leave it out of the footer even though it has a label.
    """
    return Binding(
        keys,
        action,
        label,
        show=bool(label) and not hidden,
        key_display=display or None,
        priority=priority,
        tooltip=help,
        id=f"{scope}.{keys}",
        group=Binding.Group(group, compact=True) if group else None,
    )


APP_KEYS: list[BindingType] = [
    bind("app", "f1", "help", "Help", "Explain the panel in focus and every key", display="F1"),
    bind("app", "question_mark", "help", "", "Explain the panel in focus and every key"),
    bind(
        "app",
        "ctrl+p",
        "command_palette",
        "palette",
        "Everything that can be done, by name",
        priority=True,
        hidden=True,
    ),
    bind("app", "d", "toggle_theme", "", "Dark or light theme"),
    bind("app", "s", "picture", "", "Save what is seen as an SVG file in the working directory"),
    bind("app", "q", "quit", "Quit", "Leave; training goes on"),
]

DASHBOARD_KEYS: list[BindingType] = [
    bind("dashboard", "tab", "panel(1)", "Panel", "Next panel", display="tab"),
    bind("dashboard", "shift+tab", "panel(-1)", "", "Previous panel"),
    *(
        bind("dashboard", str(number), f"go({number - 1})", "", "Panel by its number")
        for number in range(1, len(PANELS) + 1)
    ),
    bind("dashboard", "z", "zoom", "Zoom", "This panel alone, or all again"),
    bind("dashboard", "enter", "zoom", "", "This panel alone, or all again"),
    bind(
        "dashboard",
        "escape",
        "back",
        "",
        "Drop the cursor, then leave the zoom, then follow the newest probe",
    ),
    bind("dashboard", "t", "toggle_time", "", "Curves against steps or against hours"),
    bind(
        "dashboard",
        "x",
        "export",
        "",
        "Save the curves of this panel as a CSV file in the working directory",
    ),
    bind("dashboard", "r", "run(1)", "Run", "Next run, where several are shown"),
    bind("dashboard", "o", "open", "Runs", "Choose other runs"),
]

PICKER_KEYS: list[BindingType] = [
    bind(
        "picker",
        "enter",
        "open",
        "Open",
        "Show the marked runs, or the one under the cursor",
        priority=True,
    ),
    bind(
        "picker",
        "space",
        "mark",
        "Mark to compare",
        "Mark a run, to show several side by side",
    ),
    bind("picker", "slash", "filter", "Filter", "Only runs with these words", display="/"),
    bind(
        "picker",
        "o",
        "sort",
        "Sort",
        "Sort by when they were written, name, score, CKA or state",
    ),
    bind("picker", "escape", "unmark", "", "Drop the filter, then unmark all runs"),
]

FILTER_KEYS: list[BindingType] = [
    bind("filter", "down,tab", "screen.leave_filter", "", "To the list, which stays filtered"),
]

HELP_KEYS: list[BindingType] = [
    bind("help", "escape,f1,q", "dismiss", "Close", "Close the help"),
]
