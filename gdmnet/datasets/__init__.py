"""Makers of raw datasets."""
