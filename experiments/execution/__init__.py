"""Runs blocks, stores their results, and resumes them after an interruption."""
