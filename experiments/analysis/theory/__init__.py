"""Proved constants and measured errors: `python -m experiments theory`."""
