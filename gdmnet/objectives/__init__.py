"""Objectives: the ways to train a generator; their options (`options`) come without torch."""
