"""What one accelerator does: `python -m benchmarks.accelerator --write docs`."""
