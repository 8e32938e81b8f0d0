"""Trained models at work: arrays, files and folders from source to target."""

from gdmnet.inference.model import load_model
from gdmnet.inference.translator import Translator

__all__ = ["Translator", "load_model"]
