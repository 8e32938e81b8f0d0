"""Generative drifting: the field, its point sets, their banks, and gradients at the output."""
