"""A model as the folder of a container: a Dockerfile, this package, the model; and what runs in it.

Inside, images lie as grand-challenge.org lays them: /input/images/NAME/*.mha, a folder a channel
and perhaps one whose name says mask or body. Predictions go to /output/images/synthetic-TARGET.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from gdmnet import __version__, codec, files, folders
from gdmnet.data.case import CaseFiles
from gdmnet.data.case_files import images_by_case
from gdmnet.data.volume import write_volume
from gdmnet.errors import DatasetError, GdmnetError
from gdmnet.inference.archive import write_model
from gdmnet.inference.translator import load_model
from gdmnet.models.folder import read_model

PACKAGE = Path(__file__).resolve().parents[1]
_OF_MASKS = ("mask", "body")
_ENDING = ".mha"
_log = logging.getLogger(__name__)
_DOCKERFILE = f"""\
# gdmnet {__version__}: docker build --tag translate . && docker run --rm --network none \\
#   --volume "$PWD/in":/input:ro --volume "$PWD/out":/output translate
FROM python:{sys.version_info[0]}.{sys.version_info[1]}-slim
RUN useradd --create-home --uid 1000 algorithm
COPY requirements.txt /opt/algorithm/
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \\
    --requirement /opt/algorithm/requirements.txt
COPY gdmnet /opt/algorithm/gdmnet
COPY results /opt/algorithm/results
COPY run.py /opt/algorithm/
USER algorithm
WORKDIR /opt/algorithm
ENTRYPOINT ["python", "run.py"]
"""
_SCRIPT = '''\
"""What the container does: /input/images/*/*.mha to /output/images/synthetic-*/*.mha."""

import logging
import sys
from pathlib import Path

from gdmnet.inference.container import translate_folder

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    places = [Path(word) for word in sys.argv[1:]] or [Path("/input"), Path("/output")]
    sys.exit(translate_folder(Path(__file__).with_name("results"), *places))
'''


def export_container(
    folder: Path, output: Path, *, folds: Sequence[str] | None = None, licence: str = "not stated"
) -> None:
    """Write a folder with what `docker build` needs; the model as `export_model` writes it.

    Raises:
        OutputError: the output exists or cannot be written.
        GdmnetError: what `export_model` refuses.
    """
    model = read_model(folder, folds)
    with files.whole_folder(output) as stage:
        run = next(iter(model.runs.values()))
        names = model.plan.dataset, run.objective, run.configuration
        write_model(model, folders.model_folder(stage / "results", *names), licence=licence)
        shutil.copytree(PACKAGE, stage / "gdmnet", ignore=shutil.ignore_patterns("__pycache__"))
        codec.write_text(stage / "requirements.txt", "\n".join(_requirements()) + "\n")
        codec.write_text(stage / "Dockerfile", _DOCKERFILE)
        codec.write_text(stage / "run.py", _SCRIPT)


def _requirements() -> list[str]:
    """What gdmnet needs, in the versions that are installed here."""
    needed = [text for text in metadata.requires("gdmnet") or [] if "extra ==" not in text]
    names = [re.split(r"[^A-Za-z0-9_.-]", text)[0] for text in needed]
    return [f"{name}=={metadata.version(name).split('+')[0]}" for name in sorted(names)]


def translate_folder(results: Path, source: Path, output: Path) -> int:
    """Translate source/images/NAME/*.mha to output/images/synthetic-TARGET/*.mha.

    By the one model among the results, case by case, with a line of each in the log. The exit
    status is 2 where nothing can be translated, 1 where a case failed.
    """
    try:
        (plan,) = results.glob("Dataset*/*/plan.json")
        translator = load_model(plan.parent)
        cases = find_inputs(source / "images", translator.plan.channel_names)
    except GdmnetError as problem:
        _log.error("error: %s", problem)
        return 2
    target = re.sub(r"[^a-z0-9]+", "-", translator.plan.target_name.lower())
    failed = 0
    for case in cases:
        place = output / "images" / f"synthetic-{target}" / f"{case.identifier}{_ENDING}"
        try:
            volume = translator.translate_case(case)
            write_volume(place, volume, integer=translator.plan.integer_output)
            _log.info("%s: %s", case.identifier, place)
        except Exception as problem:  # noqa: BLE001 (no odd file may end the other cases)
            trace = not isinstance(problem, GdmnetError)
            _log.error("error: %s: %s", case.identifier, problem, exc_info=trace)
            failed += 1
    return 1 if failed else 0


def find_inputs(images: Path, channel_names: Sequence[str]) -> list[CaseFiles]:
    """The cases of a folder of folders: a channel each, and masks.

    A single image in every folder is one case, whatever it is called; several are told apart by
    their names. Several channels are found by the channels' names in those of the folders.

    Raises:
        DatasetError: no image, a folder that is none or several of the channels, several folders of
            masks, or an image without partners.
    """
    found = {path.name: path for path in sorted(images.glob("*")) if path.is_dir()}
    masks = [name for name in found if any(word in name.lower() for word in _OF_MASKS)]
    if len(masks) > 1:
        raise DatasetError(f"{images}: several folders of masks ({', '.join(masks)}); keep one")
    folders = {name: images_by_case(path) for name, path in found.items() if name not in masks}
    first, *others = (folders[name] for name in _channels(images, list(folders), channel_names))
    if any(len(other) != len(first) for other in others):
        counts = ", ".join(f"{name} {len(own)}" for name, own in folders.items())
        raise DatasetError(f"{images}: not as many images in every folder ({counts})")
    given = images_by_case(found[masks[0]]) if masks else {}
    alone = len(first) == 1
    return [
        CaseFiles(
            name,
            (path, *(_partner(name, other, alone=alone, where=images) for other in others)),
            mask=_partner(name, given, alone=alone, where=images) if given else None,
        )
        for name, path in first.items()
    ]


def _channels(images: Path, folders: list[str], channel_names: Sequence[str]) -> list[str]:
    if len(folders) == len(channel_names) == 1:
        return folders
    order = [
        [folder for folder in folders if name.lower() in folder.lower()] for name in channel_names
    ]
    if any(len(names) != 1 for names in order) or len(folders) != len(channel_names):
        raise DatasetError(
            f"{images}: needs a folder for each of {', '.join(channel_names)}, with that in its"
            f" name; here: {', '.join(folders) or 'none'}"
        )
    return [names[0] for names in order]


def _partner(name: str, images: Mapping[str, Path], *, alone: bool, where: Path) -> Path:
    if alone and len(images) == 1:
        return next(iter(images.values()))
    if name not in images:
        raise DatasetError(f"{where}: {name} has no image of the same name in every folder")
    return images[name]
