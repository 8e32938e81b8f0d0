"""gdm_check_encoder: what a feature encoder sees in a dataset's targets, beside a random one."""

from __future__ import annotations

import dataclasses

from gdmnet.commands.encoder_options import add_encoder_options, encoder_settings
from gdmnet.commands.terminal import (
    CommandParser,
    add_root_options,
    guarded,
    new_parser,
    roots_from,
)
from gdmnet.encoders.frozen import Report
from gdmnet.folders import Roots
from gdmnet.training.fold_training import build_feature_encoder, describe_training
from gdmnet.training.pretrain import (
    ENCODER_FILE,
    held_out_patches,
    pretraining_patch,
    split_cases,
)
from gdmnet.training.settings import EncoderSettings, TrainingSettings
from gdmnet.training.usefulness import describe, measures_table

_EPILOG = """example:
  gdm_check_encoder -d 501 -c 3d_fullres --encoder random

Blur should weigh more than noise and than a shift by one voxel, more so than in the random
encoder. A tissue read-out far below the random encoder's tells of wrong intensities or axes."""


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_dataset_arguments("dataset", "configuration", "fold", required=2, fold="0")
    add_encoder_options(parser)
    parser.add_argument("--seed", type=int, default=0)
    add_root_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_check_encoder."""
    args = build_parser().parse_args(argv)

    def body() -> int:
        roots = roots_from(args)
        choice = encoder_settings(args) or EncoderSettings()
        print(run(args.dataset, args.configuration, args.fold, roots, choice, seed=args.seed))
        return 0

    return guarded(body)


def run(
    dataset: str | int,
    configuration: str,
    fold: str,
    roots: Roots,
    choice: EncoderSettings,
    *,
    seed: int = 0,
) -> str:
    """Measure an encoder on patches of a fold's training targets, on the CPU.

    Args:
        dataset: 501 or "Dataset501_Name"; planned and prepared.
        configuration: a name of its plan.
        fold: "0", "1", ... or "all".
        roots: the folders.
        choice: of the encoder; "self" is read, not trained.
        seed: of the patches and of random weights.

    Returns:
        Where it came from and a table of measures.

    Raises:
        GdmnetError: an unknown dataset, configuration or fold; an encoder that does not fit.
    """
    settings = TrainingSettings(seed=seed, device="cpu")
    training = describe_training(dataset, configuration, fold, roots, settings)
    patch = pretraining_patch(training.configuration.patch_size)
    looked_at = dataclasses.replace(training.configuration, patch_size=patch)
    training = dataclasses.replace(training, configuration=looked_at)
    if choice.name == "self" and choice.weights is None:
        choice = dataclasses.replace(choice, weights=training.encoder_folder / ENCODER_FILE)
    encoder = build_feature_encoder(training, choice)
    control = build_feature_encoder(training, EncoderSettings("random"))
    held_out = held_out_patches(split_cases(training.cases()[0])[1], looked_at, seed=seed)
    measured = {"this": describe(encoder, held_out), "random": describe(control, held_out)}
    return "\n".join([*_origin(encoder.report), "", *measures_table(measured)])


def _origin(report: Report | None) -> list[str]:
    if report is None:
        return []
    facts = {
        "encoder": report.name,
        "weights": report.file or "none",
        "sha256": report.sha256,
        "tensors": f"{report.n_tensors} read; {report.n_others} others in the file",
        "stages": ", ".join(map(str, report.stages)),
        "channels": ", ".join(map(str, report.channels)),
        "strides": ", ".join("x".join(map(str, stride)) for stride in report.strides),
        "zoom": " ".join(f"{factor:.3g}" for factor in report.zoom),
        "outside": f"{100 * report.outside:.0f} % of the target's range",
    }
    return [f"{name:<9}{value}" for name, value in facts.items() if value is not None]
