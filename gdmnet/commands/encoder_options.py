"""Options that choose a feature encoder, the same in every command that uses one."""

from __future__ import annotations

import argparse

from gdmnet.settings import add_settings, given_settings, make_settings, setting_names
from gdmnet.training.settings import EncoderSettings


def add_encoder_options(parser: argparse.ArgumentParser, *, trains: bool = True) -> None:
    """--encoder and --encoder-weights, -stages, ...; -iterations where the command trains one."""
    group = parser.add_argument_group("feature encoder (gdm_info --encoders lists them)")
    names = [n for n in setting_names(EncoderSettings) if trains or n != "iterations"]
    add_settings(group, EncoderSettings, names, prefix="encoder_")


def encoder_settings(args: argparse.Namespace) -> EncoderSettings | None:
    """What was typed, the rest as by default; None where nothing was."""
    given = given_settings(args, EncoderSettings, prefix="encoder_")
    return make_settings(EncoderSettings, given) if given else None
