"""The keys that act on the whole dashboard; those of a panel stand in its own file."""

from __future__ import annotations

from textual.binding import Binding, BindingType

DASHBOARD_BINDINGS: list[BindingType] = [
    Binding(
        "tab",
        "panel(1)",
        "Panel",
        id="dashboard.next",
        key_display="tab",
        tooltip="Next panel",
    ),
    Binding(
        "shift+tab",
        "panel(-1)",
        "Previous panel",
        id="dashboard.previous",
        show=False,
        tooltip="Previous panel",
    ),
    *(
        Binding(
            str(number),
            f"go({number - 1})",
            f"Panel {number}",
            id=f"dashboard.go{number}",
            show=False,
            tooltip="Panel by its number",
        )
        for number in range(1, 8)
    ),
    Binding(
        "z",
        "zoom",
        "Zoom",
        id="dashboard.zoom",
        tooltip="This panel alone, or all again",
    ),
    Binding(
        "enter",
        "zoom",
        "Zoom",
        id="dashboard.zoom2",
        show=False,
        tooltip="This panel alone, or all again",
    ),
    Binding(
        "escape",
        "back",
        "Back",
        id="dashboard.back",
        show=False,
        tooltip="Drop the cursor, then leave the zoom, then follow the newest probe",
    ),
    Binding(
        "t",
        "toggle_time",
        "Steps/hours",
        id="dashboard.time",
        show=False,
        tooltip="Curves against steps or against hours",
    ),
    Binding(
        "r",
        "run(1)",
        "Run",
        id="dashboard.run",
        tooltip="Next run, where several are shown",
    ),
    Binding("o", "open", "Runs", id="dashboard.open", tooltip="Choose other runs"),
]
