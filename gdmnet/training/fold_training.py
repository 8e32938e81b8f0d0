"""The training of one fold: what makes it, and the parts that it is built of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from gdmnet import codec, folders
from gdmnet.data.splits import Split, split_for
from gdmnet.data.store import StoredCase, open_case
from gdmnet.errors import DatasetError
from gdmnet.folders import Roots
from gdmnet.models.checkpoint import load_pretrained
from gdmnet.models.device import find_device
from gdmnet.objectives.base import Inputs
from gdmnet.objectives.build import SAMPLED, context_of, generator_of
from gdmnet.plan import Configuration, Fingerprint, Plan, Run
from gdmnet.training.batches import Batches
from gdmnet.training.distributed import require_devices, this_process
from gdmnet.training.run import describe_run
from gdmnet.training.settings import TrainingSettings


@dataclass(frozen=True)
class FoldTraining:
    """The training of one fold, in terms that can be sent to a process.

    Attributes:
        run: of run.json; the encoder's checksum is missing until the encoder is there.
        configuration: of the plan.
        split: whose cases lie prepared in `dataset`.
        dataset: folder of the prepared dataset, with its plan, fingerprint and cases.
        folder: of the fold, in the model's folder.
        encoder_folder: where the embedded encoder is kept.
        device: cpu, cuda, cuda:1.
        pretrained: a checkpoint to start from.
        resume: go on from the latest checkpoint.
    """

    run: Run
    configuration: Configuration
    split: Split
    dataset: Path
    folder: Path
    encoder_folder: Path
    device: str
    pretrained: Path | None
    resume: bool = False

    def cases(self) -> tuple[list[StoredCase], list[StoredCase]]:
        """The prepared training and validation cases.

        Raises:
            DatasetError: one is missing, damaged, or older than the raw files of the plan.
        """
        folder, split = self.dataset / self.configuration.name, self.split
        fingerprint = self.fingerprint()
        known = {} if fingerprint is None else {c.identifier: c.digests for c in fingerprint.cases}

        def opened(identifier: str) -> StoredCase:
            case = open_case(folder, identifier)
            if known.get(identifier, case.record.digests) != case.record.digests:
                raise DatasetError(
                    f"{folder / identifier}: was prepared from other raw files than the plan; run"
                    f" gdm_plan_and_preprocess with -c {self.configuration.name}"
                )
            return case

        return [opened(case) for case in split.training], [opened(c) for c in split.validation]

    def fingerprint(self) -> Fingerprint | None:
        """What was measured on the dataset, if it is there."""
        path = self.dataset / folders.FINGERPRINT_JSON
        return codec.load(Fingerprint, path) if path.is_file() else None

    def process_device(self) -> torch.device:
        """The device of this process among those that train together."""
        return this_process().device(torch.device(self.device))


def describe_training(
    dataset: str | int, configuration: str, fold: str, roots: Roots, settings: TrainingSettings
) -> FoldTraining:
    """The training that is asked for, as if its folder were empty; nothing is written.

    Raises:
        GdmnetError: an unknown dataset, configuration, fold or device.
    """
    name = folders.resolve_dataset(dataset, roots.preprocessed)
    home = roots.preprocessed / name
    plan = codec.load(Plan, home / folders.PLAN_JSON)
    chosen = plan.configuration(configuration)
    split = split_for(str(fold), home / folders.SPLITS_JSON)
    device = find_device(settings.device)
    run = describe_run(plan, chosen, str(fold), split, settings, device)
    require_devices(run.n_devices, device)
    model = folders.model_folder(roots.results, name, settings.objective, configuration)
    encoders = settings.encoder_root or roots.results
    return FoldTraining(
        run=run,
        configuration=chosen,
        split=split,
        dataset=home,
        folder=folders.fold_folder(model, str(fold)),
        encoder_folder=folders.encoder_folder(encoders, name, configuration, str(fold)),
        device=str(device),
        pretrained=settings.pretrained,
    )


def patch_batches(training: FoldTraining) -> tuple[Batches, Batches]:
    """Augmented patches of the training cases and plain ones of the validation cases."""
    run, configuration = training.run, training.configuration
    cases, validation = training.cases()
    seed = run.recipe.seed
    return (
        Batches(cases, configuration, seed=seed, augment=True, n_workers=run.n_workers),
        Batches(validation, configuration, seed=seed, augment=False),
    )


def build_generator(training: FoldTraining) -> nn.Module:
    """The generator with its seeded first weights, or those of a checkpoint.

    Raises:
        CheckpointError: the pretrained checkpoint does not fit.
    """
    run, inputs = training.run, Inputs()  # only an objective with a sampler has others
    if run.objective in SAMPLED:
        inputs = SAMPLED[run.objective](context_of(training.configuration, run.options)).inputs
    torch.manual_seed(run.recipe.seed)
    generator = generator_of(training.configuration, inputs)
    if training.pretrained is not None:
        load_pretrained(generator, training.pretrained)
    return generator
