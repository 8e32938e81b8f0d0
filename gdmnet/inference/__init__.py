"""Trained models at work: arrays, files and folders from source to target."""

from gdmnet.inference.model import Translator, load_model

__all__ = ["Translator", "load_model"]
