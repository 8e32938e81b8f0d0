"""The translator: a trained model that makes targets from sources, and how it is loaded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gdmnet.data.case import Case, CaseFiles, Volume
from gdmnet.data.dicom import case_of, read_sources
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.errors import CheckpointError, DatasetError, OutputError
from gdmnet.geometry import Geometry, Spacing, shape_of
from gdmnet.inference import input_check
from gdmnet.inference.engine import OnnxEnsemble, load_exported
from gdmnet.inference.finish import apply_finish, mean_finish
from gdmnet.inference.windows import Estimate, Spread
from gdmnet.models.card import ModelCard, PredictionSettings
from gdmnet.models.expected_error import ExpectedError, difficulty
from gdmnet.models.folder import read_model, require_alike
from gdmnet.plan import Configuration, Fingerprint, Normalisation, Plan, Run, SpectralFinish
from gdmnet.preprocessing import prepare_volumes, restore

if TYPE_CHECKING:  # which torch is not needed for
    from gdmnet.inference.consistency import DataConsistency
    from gdmnet.inference.ensemble import Ensemble

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Translator:
    """A trained model that is ready to work; `load_model` makes it, see the package's example.

    A case is prepared, predicted window by window and restored to the sources' grid and the
    target's units: `restore(predict(case), case)` for a case of `prepare`. The three `translate_`
    do it at once and log what `gdm_predict` warns of: an input unlike the training data.
    """

    plan: Plan  # of the dataset that the model was trained on
    configuration: Configuration
    card: ModelCard  # which weights are used and how
    network: Ensemble | OnnxEnsemble  # the folds' generators as one
    training: Fingerprint | None = None  # None where the folder does not say
    finishing: DataConsistency | None = None  # before a file is written
    finish: SpectralFinish | None = None  # the filter that `predict` ends with
    expected: ExpectedError | None = None  # of such predictions; None where it was not measured
    detail_gain: float = 0.0  # how much of a case's `detail` comes back, `Run.detail_gain`

    def translate_array(self, array: NDArray, spacing: Spacing) -> NDArray:
        """Translate an image in memory.

        Args:
            array: (z, y, x), or (c, z, y, x) with the plan's channels, in file units (CT: HU);
                axes in LPS order: z towards the head, y to the back, x to the patient's left.
            spacing: mm along (z, y, x).

        Returns:
            float32 (z, y, x) on the same grid, in the target's units (CT: HU).

        Raises:
            DatasetError: not the plan's channels, a blank one, or values that are not finite.
            ValueError: an array of another number of axes.
        """
        if array.ndim not in (3, 4):
            raise ValueError(f"expected (z, y, x) or (c, z, y, x), not {array.ndim} axes")
        channels = (array[None] if array.ndim == 3 else array).astype(np.float32)
        if not np.isfinite(channels).all():
            raise DatasetError("the array has NaN or infinite values; replace them first")
        volume = Volume(channels, Geometry(shape_of(channels), spacing))
        translated: NDArray = self._translate("array", volume).array[0]
        return translated

    def translate_case(self, files: CaseFiles) -> Volume:
        """Translate the source files of a case; a target is not looked at.

        Returns:
            float32 (1, z, y, x) in the target's units, on the sources' grid.

        Raises:
            DatasetError: a file cannot be read, does not fit the model or is blank.
        """
        mask = None if files.mask is None else read_volume(files.mask)
        return self._translate(files.identifier, read_sources(files), mask)

    def translate_files(
        self, sources: str | Path | Sequence[str | Path], output: str | Path
    ) -> None:
        """Translate one case from files to a file, on the sources' exact grid.

        Args:
            sources: one file a channel, in the plan's order; a single file for one channel. The
                folder of a DICOM series does as well as a file.
            output: the file to write; its ending (.nii.gz, .nii, .nrrd, .mha) is the format.

        Raises:
            DatasetError: a source cannot be read, does not fit the model or is blank.
            OutputError: the output cannot be written, or is a source.
        """
        given, place = [sources] if isinstance(sources, (str, Path)) else sources, Path(output)
        paths = [Path(path) for path in given]
        if place.resolve() in [path.resolve() for path in paths]:
            raise OutputError(f"{place}: is the source; give another name")
        volume = self.translate_case(case_of(place.name.split(".")[0], paths))
        write_volume(place, volume, integer=self.plan.integer_output)

    def _translate(self, identifier: str, sources: Volume, mask: Volume | None = None) -> Volume:
        case, findings = self.prepare(identifier, sources, mask)
        for text in input_check.input_warnings(case, findings, self.configuration):
            _log.warning("case %s: %s", identifier, text)
        return self.restore(self.predict(case), case)

    def prepare(
        self, identifier: str, sources: Volume, mask: Volume | None = None
    ) -> tuple[Case, tuple[input_check.Finding, ...] | None]:
        """A case to predict, and how it is unlike the training data; None if that is not known.

        Raises:
            DatasetError: volumes that do not fit each other or the model, or a blank channel.
        """
        case, corrected = prepare_volumes(identifier, sources, self.configuration, mask=mask)
        input_check.require_content(case, sources, self.configuration)
        if self.training is None:
            return case, None
        facts = input_check.measure_input(case, corrected)
        return case, input_check.check_input(facts, self.training)

    def predict(self, case: Case, *, spread: Spread | None = None) -> Estimate:
        """The network's output for a prepared case in network units, on the prepared grid.

        The case is one of `prepare`; `spread` asks for the deviation, too: as for `windows.blend`.

        Raises:
            CheckpointError: the spread of a sampler is asked for.
            DatasetError: the output is not finite.
        """
        if spread:
            self.require_spread()
        estimate = self.network.predict(case, spread=spread)
        if not np.isfinite(estimate.mean).all():
            raise DatasetError(
                f"case {case.record.identifier}: the network's output is not finite; look at the"
                " input's intensities"
            )
        if self.finish is None:
            return estimate
        mean = apply_finish(self.finish, estimate.mean[0], case.body > 0, case.record.spacing)
        return replace(estimate, mean=mean[None])

    def restore(self, estimate: Estimate, case: Case) -> Volume:
        """A prediction in the target's units, on the sources' grid: float32 (1, z, y, x)."""
        target, gain = self.configuration.target, np.float32(self.detail_gain)
        detail = None if case.detail is None or gain == 0 else gain * case.detail
        return _restored(estimate.mean, case, target, detail)

    def restore_spread(self, std: NDArray, case: Case) -> Volume:
        """Standard deviations in the target's units, on the sources' grid; 0 outside the body."""
        scale = self.configuration.target.scale
        return _restored(std, case, Normalisation("none", 0.0, scale, None, None, background=0.0))

    def difficulty(self, estimate: Estimate, case: Case) -> Volume:
        """What an `ExpectedError` is looked up by, of an estimate with the spread "mirrored".

        In the target's units, on the sources' grid; 0 outside the body.
        """
        assert estimate.std is not None
        found = difficulty(estimate.mean[0], estimate.std[0], case.body, case.record.spacing)
        return self.restore_spread(found[None], case)

    def spread_sources(self) -> str:
        """What the opinions come from whose spread is measured, in words."""
        n_folds = len(self.card.checkpoints)
        folds = [f"{n_folds} folds"] if n_folds > 1 else []
        copies = ["mirrored copies"] if self.card.settings.tta else []
        return ", ".join([*folds, *copies, "overlapping windows"])

    def require_spread(self) -> None:
        """Refuse what has no spread to measure.

        Raises:
            CheckpointError: a sampler's opinions meet at every step; none are left at the end.
        """
        if self.card.settings.sampler is not None:
            raise CheckpointError(
                f"--uncertainty: {self.card.objective} makes one volume from one noise, folds and"
                " windows agree at every step; leave it out, and compare --seed 0, 1, ... instead"
            )

    def with_data_consistency(
        self, cases: Sequence[CaseFiles], sinograms: Path | None = None
    ) -> Translator:
        """The same, but its predictions of these cases agree with the measured views.

        Its expected errors, measured on other predictions, are left aside.

        Raises:
            DatasetError: the target is no CT, or a file of `find_data_consistency` is missing.
        """
        from gdmnet.inference.consistency import find_data_consistency

        self.require_ct("--data-consistency")
        channel = self.configuration.residual_channel
        finishing = find_data_consistency(cases, sinograms, channel)
        card = replace(self.card, data_consistency=True)
        return replace(self, card=card, finishing=finishing, expected=None)

    def require_ct(self, option: str) -> None:
        """Refuse an option of models of CT for any other; a DatasetError."""
        if self.configuration.target.scheme != "ct":
            raise DatasetError(
                f"{option} is for CT in Hounsfield units, but the model makes"
                f" {self.plan.target_name}"
            )


def _restored(
    array: NDArray, case: Case, units: Normalisation, detail: NDArray | None = None
) -> Volume:
    """Network units as file units, in the body on the source's own grid where that is known."""
    body = case.body if case.outline is None else case.outline
    restored = restore(array, case.record, units, body=body, detail=detail)
    return Volume(restored, case.record.geometry)


def load_model(
    folder: str | Path,
    settings: PredictionSettings | None = None,
    *,
    folds: Sequence[str | int] | None = None,
    device: str = "auto",
) -> Translator:
    """Load a trained model: the EMA weights of its folds, combined at their outputs.

    Args:
        folder: of the model, for example gdmnet_results/Dataset501_MR2CT/gdm__3d_fullres; it holds
            all that is needed and may have been copied from elsewhere.
        settings: how to predict; None is the default of each.
        folds: for example [0, 1] or ["all"]; None takes all finished numeric folds.
        device: "auto", "cpu", "cuda", "cuda:1".

    Raises:
        CheckpointError: not a model folder, an unfinished fold, a damaged checkpoint, weights that
            are not finite, folds that were trained differently, a realism is asked of a model
            without a twin, or steps of an objective without a sampler.
        DeviceError: no such device.
        PlanError: the folder was written by another version of gdmnet.
    """
    settings = settings or PredictionSettings()
    model = read_model(Path(folder), None if folds is None else [str(fold) for fold in folds])
    runs = list(model.runs.values())
    if not settings.mixed_folds:
        require_alike(model.runs)
    dialled = {
        fold: run.realism if settings.realism is None else settings.realism
        for fold, run in model.runs.items()
    }
    finish = _finish_of(runs, settings)
    card = ModelCard(
        folder=str(folder),
        objective=runs[0].objective,
        configuration=model.configuration.name,
        checkpoints={},
        device="cpu",
        precision="fp32",
        settings=settings,
        realism={fold: value for fold, value in dialled.items() if value is not None},
        finish=0.0 if finish is None else finish.strength,
    )
    network: Ensemble | OnnxEnsemble
    if settings.engine == "torch":
        # here, because the other engines work where there is no torch
        from gdmnet.inference.ensemble import load_ensemble

        network = load_ensemble(model, card, device)
    else:
        network = load_exported(model, card, device)
    expected = model.expected
    fits = expected is not None and expected.fits(set(model.runs), settings)
    return Translator(
        model.plan,
        model.configuration,
        network.card,
        network,
        model.fingerprint,
        finish=finish,
        expected=expected if fits else None,
        detail_gain=fmean(run.detail_gain for run in runs),
    )


def _finish_of(runs: Sequence[Run], settings: PredictionSettings) -> SpectralFinish | None:
    """The folds' filter; None where one has none, or other weights than it was fitted with."""
    fitted = [run.finish for run in runs if settings.realism in (None, run.realism)]
    found = [finish for finish in fitted if finish is not None]
    wanted = settings.finish and settings.checkpoint == "final" and len(found) == len(runs)
    return mean_finish(found) if wanted else None
