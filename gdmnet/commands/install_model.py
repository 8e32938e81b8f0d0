"""gdm_install_model: put a model that was sent among the results."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gdmnet.commands.terminal import guarded, new_parser, roots_from
from gdmnet.folders import Roots

if TYPE_CHECKING:
    from gdmnet.inference.archive import InstalledModel

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


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_install_model."""
    args = build_parser().parse_args(argv)

    def body() -> int:
        installed = run(args.archive, roots_from(args), overwrite=args.overwrite)
        manifest = installed.manifest
        if installed.namesakes:
            others = ", ".join(installed.namesakes)
            note = f"note: {others} has the same number; call this model by -d {manifest.dataset}"
            print(note, file=sys.stderr)
        print(f"installed: {installed.folder} (folds {', '.join(manifest.folds)})")
        print(f"licence of the weights: {manifest.licence}; read {installed.folder}/model_card.md")
        return 0

    return guarded(body)


def run(archive: Path, roots: Roots, *, overwrite: bool = False) -> InstalledModel:
    """Install an archive among the results; see `install_model`."""
    from gdmnet.inference.archive import install_model

    return install_model(archive, roots.results, overwrite=overwrite)
