"""gdm_predict: translate images with a trained model."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gdmnet.cluster import chosen_part
from gdmnet.commands.terminal import add_path, command, new_parser, roots_from
from gdmnet.errors import DatasetError, OutputError, SettingError
from gdmnet.folders import Roots
from gdmnet.models.card import PredictionSettings
from gdmnet.models.select import ModelChoice, find_model
from gdmnet.settings import Settings, add_settings, setting, settings_from

if TYPE_CHECKING:
    from gdmnet.inference.predict import FolderResult
    from gdmnet.inference.translator import Translator

_EPILOG = """example:
  gdm_predict -i in/ -o out/

One finished model under the results is found by itself; dataset, -c, --objective and -f narrow the
choice where there are several, and -m names a model's folder directly."""
_GENERAL = ("device", "overwrite", "uncertainty", "n_threads", "num_parts", "part_id")
_HOW = ("checkpoint", "step_size", "tta", "ensemble", "realism", "finish", "engine", "mixed_folds")
_SAMPLING = ("steps", "sampler", "seed")
_DICOM = ("source", "untilt", "dicom_out", "dicom_grid", "dicom_template")
_SINOGRAMS = ("data_consistency", "sinograms")


@dataclass(frozen=True)
class PredictionOptions(Settings):
    """What a prediction of a folder needs beside which model predicts, and how."""

    device: str = setting("auto", "auto, cpu, cuda, cuda:1", metavar="DEVICE")
    overwrite: bool = setting(False, "predict anew what is there; it stays until the new one is")
    uncertainty: bool = setting(
        False,
        "write OUT/uncertainty too: 90 % of the voxels are expected within +- so much, by the"
        " model's validation; without one, how far folds, mirrored copies and windows lie apart",
    )
    n_threads: int = setting(1, "cases to read and prepare ahead", least=1, flag="-np")
    num_parts: int | None = setting(
        None,
        "processes that share the cases (default: of torchrun, srun or a SLURM array)",
        least=1,
    )
    part_id: int | None = setting(
        None, "which part this one does, from 0 to N - 1", least=0, metavar="K"
    )
    source: tuple[str, ...] = setting(
        (), "series to take, a pattern a channel, as gdm_convert dicom has", metavar="PATTERN"
    )
    untilt: bool = setting(False, "resample CTs of a tilted gantry to a plain grid")
    dicom_out: bool = setting(
        False, "write OUT/CASE_dicom too: a CT series of the source's patient, study and frame"
    )
    dicom_grid: str | None = setting(
        None, "square axial pixels (default), or the source's slices", choices=("axial", "source")
    )
    dicom_template: Path | None = setting(
        None, "folder of the series that other input than DICOM was made from", metavar="SERIES"
    )
    data_consistency: bool = setting(
        False, "make predictions agree with the measured line integrals by a few iterations"
    )
    sinograms: Path | None = setting(
        None, "folder of CASE.json and CASE.npz (default: simulation/ beside IN)", metavar="DIR"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.dicom_grid or self.dicom_template) and not self.dicom_out:
            raise SettingError("--dicom-grid and --dicom-template need --dicom-out; add it")
        if self.sinograms and not self.data_consistency:
            raise SettingError("--sinograms needs --data-consistency; add it")


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    scans = parser.add_mutually_exclusive_group(required=True)
    text = "folder of CASE_0000.nii.gz (one file a channel), one file, or a tree of DICOM series"
    add_path(scans, "-i", "inputs", text, metavar="IN")
    text = "predict for ever what others put into this folder, once it is half a minute old"
    add_path(scans, "--watch", "watch", text)
    add_path(parser, "-o", "output", "output folder", metavar="OUT", required=True)
    parser.add_dataset_arguments("dataset", "configuration", required=0)
    parser.usage = "%(prog)s (-i IN | --watch DIR) -o OUT [DATASET] [CONFIGURATION] [options]"
    add_settings(parser, ModelChoice, ("objective", "folds", "model"))
    add_settings(parser, PredictionSettings, _HOW)
    add_settings(parser, PredictionOptions, _GENERAL)
    sampling = parser.add_argument_group("flow, bridge, diffusion")
    add_settings(sampling, PredictionSettings, _SAMPLING)
    add_settings(parser.add_argument_group("DICOM"), PredictionOptions, _DICOM)
    add_settings(parser.add_argument_group("sparse-view CT"), PredictionOptions, _SINOGRAMS)
    parser.add_shared_options(processes=False)
    return parser


@command(build_parser)
def main(args: argparse.Namespace) -> int:
    """Entry point of gdm_predict."""
    choice, options = settings_from(args, ModelChoice), settings_from(args, PredictionOptions)
    settings = settings_from(args, PredictionSettings)
    if args.watch is not None:
        _watch(args.watch, args.output, roots_from(args), choice, settings, options)
    result = run(args.inputs, args.output, roots_from(args), choice, settings, options)
    n_done, n_kept, n_failed = map(len, (result.predicted, result.skipped, result.failed))
    print(f"{n_done} predicted, {n_kept} there already, {n_failed} failed: {args.output}")
    if not n_failed:
        return 0
    return 1 if n_done or n_kept else 2


def run(
    inputs: Path,
    output: Path,
    roots: Roots,
    choice: ModelChoice | None = None,
    settings: PredictionSettings | None = None,
    options: PredictionOptions | None = None,
) -> FolderResult:
    """Predict a folder of cases, or one file.

    Args:
        inputs: folder of CASE_0000<ending> files, one file for a model of one channel, or a tree
            of DICOM series.
        output: folder of the predictions.
        roots: the folders; only the results are looked at.
        choice: which model; by default the only finished one.
        settings: how it is used.
        options: everything else.

    Raises:
        GdmnetError: no model or several, bad inputs, no such device, an output folder that cannot
            be written.
    """
    options = options or PredictionOptions()
    translator = _translator(choice or ModelChoice(), settings, options, roots)
    return _translate(translator, inputs, output, options)


def _watch(
    watched: Path,
    output: Path,
    roots: Roots,
    choice: ModelChoice,
    settings: PredictionSettings,
    options: PredictionOptions,
) -> NoReturn:
    """Predict what arrives in a folder; what is there is kept: a restart does nothing twice."""
    from gdmnet.inference.predict import watch

    if options.overwrite or options.data_consistency:
        raise SettingError("--watch takes neither --overwrite nor --data-consistency")
    if not watched.is_dir() or output.resolve().is_relative_to(watched.resolve()):
        raise DatasetError(f"--watch {watched}: must be a folder, and the output elsewhere")
    translator = _translator(choice, settings, options, roots)

    def take(place: Path) -> None:
        result = _translate(translator, place, output, options, nested=place != watched)
        for word in ("predicted", "failed"):
            for case in getattr(result, word):
                print(f"{place.name}: {case} {word}", flush=True)

    print(f"watching {watched}", flush=True)
    watch(watched, take)


def _translator(
    choice: ModelChoice,
    settings: PredictionSettings | None,
    options: PredictionOptions,
    roots: Roots,
) -> Translator:
    from gdmnet.inference.translator import load_model

    folder = find_model(choice, roots.results)
    translator = load_model(folder, settings, folds=choice.folds, device=options.device)
    print(f"model: {translator.card}", file=sys.stderr)
    if translator.training is None:
        unknown = "no fingerprint.json in the model: inputs are not compared with the training data"
        print(unknown, file=sys.stderr)
    if options.uncertainty and (translator.expected is None or options.data_consistency):
        known = "no expected errors of this model with these settings"
        maps = "the maps are standard deviations of all opinions, no error bars"
        print(f"{known}: {maps}", file=sys.stderr)
    return translator


def _translate(
    translator: Translator,
    inputs: Path,
    output: Path,
    options: PredictionOptions,
    *,
    nested: bool = True,
) -> FolderResult:
    from gdmnet.inference.dicom import SUFFIX, find_templates, write_series
    from gdmnet.inference.inputs import find_cases, output_name
    from gdmnet.inference.predict import predict_folder

    how = {"untilt": options.untilt, "nested": nested}
    cases = find_cases(inputs, translator.plan, options.source, **how)
    if any(case.series for case in cases) and output.resolve().is_relative_to(inputs.resolve()):
        raise OutputError(f"{output}: lies among the scans; give another folder by -o")
    if options.data_consistency:
        translator = translator.with_data_consistency(cases, options.sinograms)
    is_dicom = options.dicom_out
    templates = find_templates(cases, translator, options.dicom_template) if is_dicom else {}
    part_id, n_parts = chosen_part(options.num_parts, options.part_id)
    how = {name: getattr(options, name) for name in ("overwrite", "uncertainty", "n_threads")}
    result = predict_folder(translator, cases, output, **how, n_parts=n_parts, part_id=part_id)
    if is_dicom:
        there = {*result.predicted, *result.skipped}
        done = [case for case in cases if case.identifier in there]
        files = {case.identifier: output / output_name(case, translator.plan) for case in done}
        grid = options.dicom_grid or "axial"
        series = write_series(translator, files, templates, grid=grid, keep=result.skipped)
        print(f"{len(series)} CT series: {output}/*{SUFFIX}")
    return result
