"""Trained models: what training and inference share; device, precision, checkpoints, choice."""
