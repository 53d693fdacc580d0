"""Measured figures as rows: one JSON object a line, with the command and machine that made it."""
