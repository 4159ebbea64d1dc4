"""Data sets, how they are dealt out, and batches."""
