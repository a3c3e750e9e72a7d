"""Measures of an evaluation and what they are computed with: pure functions of NumPy arrays."""
