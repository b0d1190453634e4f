"""The panels of the dashboard, one a file, and the drawing they share."""
