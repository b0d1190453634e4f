"""The screens of the monitor: the picker of runs, the dashboard, help."""
