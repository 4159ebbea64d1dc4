"""Specification of a grid of runs, by names and numbers; nothing here trains."""
