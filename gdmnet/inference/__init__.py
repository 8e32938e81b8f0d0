"""Trained models at work: arrays, files and folders from source to target.

Example, in a folder where `gdm_train 501 3d_fullres` has finished:

    from pathlib import Path

    from gdmnet.data.volume import read_volume
    from gdmnet.inference import load_model

    translator = load_model("gdmnet_results/Dataset501_Test/gdm__3d_fullres", device="cpu")

    # files to files, on the input's exact grid
    translator.translate_files("in/patient_0000.nii.gz", "patient.nii.gz")

    # arrays to arrays: (z, y, x) in the source's units to (z, y, x) in the target's (CT: HU)
    source = read_volume(Path("in/patient_0000.nii.gz"))
    target = translator.translate_array(source.array[0], source.geometry.spacing)
"""

from gdmnet.inference.translator import Translator, load_model
from gdmnet.models.card import PredictionSettings

__all__ = ["PredictionSettings", "Translator", "load_model"]
