"""Algorithms that rules are made of: fixed points, searches over subsets, the span of the rows."""
