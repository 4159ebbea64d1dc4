"""Algorithms used by the rules: fixed points, searches over subsets, the span of the rows."""
