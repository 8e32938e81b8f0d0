"""gdm_install_model: put a model that was sent among the results."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gdmnet.commands.terminal import command, new_parser, roots_from

_EPILOG = """example:
  gdm_install_model model.zip

Nothing in the archive is executed; damaged and unsafe archives are refused as a whole."""


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_argument("archive", type=Path, metavar="ARCHIVE", help="from gdm_export_model")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    parser.add_shared_options(processes=False, images=False)
    return parser


@command(build_parser)
def main(args: argparse.Namespace) -> int:
    """Entry point of gdm_install_model."""
    from gdmnet.inference.archive import install_model

    results = roots_from(args).results
    installed = install_model(args.archive, results, overwrite=args.overwrite)
    manifest = installed.manifest
    if installed.namesakes:
        others = ", ".join(installed.namesakes)
        note = f"note: {others} has the same number; call this model by -d {manifest.dataset}"
        print(note, file=sys.stderr)
    print(f"installed: {installed.folder} (folds {', '.join(manifest.folds)})")
    print(f"licence of the weights: {manifest.licence}; read {installed.folder}/model_card.md")
    return 0
