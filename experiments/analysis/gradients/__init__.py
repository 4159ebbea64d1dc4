"""Gradients of real models across workers: `python -m experiments gradients`."""
