"""Blocks that run, are kept on disk, and go on after an interruption."""
