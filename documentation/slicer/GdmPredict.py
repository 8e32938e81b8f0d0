"""A scripted module of 3D Slicer: translates a loaded volume by a gdmnet model.

Slicer's own Python needs nothing installed: the module calls the program gdm_predict of the
environment that gdmnet lives in. Add the folder of this file under Edit > Application Settings >
Modules; the module then stands under Synthesis.
"""

import json
import shlex
import subprocess
import tempfile
from pathlib import Path

import ctk
import qt
import slicer
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)

SETTINGS = "GdmPredict"  # what was typed last is there again
CASE = "scan"


class GdmPredict(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent):
        super().__init__(parent)
        parent.title = "gdmnet: translate"
        parent.categories = ["Synthesis"]
        parent.dependencies = []
        parent.contributors = ["The gdmnet authors"]
        parent.helpText = (
            "Translates a volume, for example an MR into a synthetic CT, by a trained gdmnet model."
            " Research software and no medical device: look at every result."
        )


class GdmPredictWidget(ScriptedLoadableModuleWidget):
    """Three fields and a button."""

    def setup(self):
        super().setup()
        self.logic = GdmPredictLogic()
        self.volume = slicer.qMRMLNodeComboBox()
        self.volume.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.volume.noneEnabled = False
        self.volume.addEnabled = self.volume.removeEnabled = False
        self.volume.setMRMLScene(slicer.mrmlScene)
        self.program = qt.QLineEdit(self.remembered("program", "gdm_predict"))
        self.program.setToolTip("the program, with its folder if it is on no path")
        self.model = ctk.ctkPathLineEdit()
        self.model.filters = ctk.ctkPathLineEdit.Dirs
        self.model.currentPath = self.remembered("model", "")
        self.model.setToolTip("for example gdmnet_results/Dataset501_MRtoCT/gdm__3d_fullres")
        self.apply = qt.QPushButton("Translate")
        self.apply.connect("clicked(bool)", self.on_apply)
        box = ctk.ctkCollapsibleButton()
        box.text = "Translate"
        self.layout.addWidget(box)
        form = qt.QFormLayout(box)
        for label, field in (
            ("Volume", self.volume),
            ("Program", self.program),
            ("Model", self.model),
            ("", self.apply),
        ):
            form.addRow(label, field)
        self.layout.addStretch(1)

    def on_apply(self, checked=False):
        """Translate the chosen volume, and lay the result over it."""
        source = self.volume.currentNode()
        if source is None:
            slicer.util.errorDisplay("Load a volume first.")
            return
        program, model = self.program.text, self.model.currentPath
        qt.QSettings().setValue(f"{SETTINGS}/program", program)
        qt.QSettings().setValue(f"{SETTINGS}/model", model)
        with slicer.util.tryWithErrorDisplay("gdm_predict says no", waitCursor=True):
            result, warnings = self.logic.translate(source, program, model)
            slicer.util.setSliceViewerLayers(background=source, foreground=result)
            if warnings:
                slicer.util.warningDisplay("\n".join(warnings))

    def remembered(self, name, default):
        return qt.QSettings().value(f"{SETTINGS}/{name}", default)


class GdmPredictLogic(ScriptedLoadableModuleLogic):
    """The work, without a window."""

    def translate(self, source, program, model):
        """The translation of a volume node, as a new node on the same grid, and its warnings.

        Args:
            source: the node; written as NIfTI, where both of its forms agree.
            program: how gdm_predict is called, with options if need be; quotes hold a path with
                blanks together, a backslash is one.
            model: a model's folder; empty takes the only one that is installed.

        Raises:
            RuntimeError: what gdm_predict said in its one line.
        """
        with tempfile.TemporaryDirectory(prefix="gdmnet-") as folder:
            inputs, outputs = Path(folder) / "in", Path(folder) / "out"
            inputs.mkdir()
            slicer.util.saveNode(source, str(inputs / f"{CASE}_0000.nii.gz"))
            words = shlex.shlex(program, posix=True, punctuation_chars=False)
            words.whitespace_split, words.escape, words.commenters = True, "", ""
            command = [*words, "-i", str(inputs), "-o", str(outputs)]
            if model:
                command += ["-m", str(model)]
            try:
                done = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    check=False,
                    env=slicer.util.startupEnvironment(),  # not Slicer's own Python
                )
            except OSError as problem:
                raise RuntimeError(f"{command[0]} cannot be started: {problem.strerror}") from None
            if done.returncode != 0:
                lines = [line for line in done.stderr.splitlines() if line.strip()]
                raise RuntimeError(lines[-1] if lines else f"status {done.returncode}")
            record = json.loads((outputs / "predictions.json").read_text(encoding="utf-8"))
            warnings = record["cases"][CASE]["warnings"]
            result = slicer.util.loadVolume(str(outputs / f"{CASE}.nii.gz"))
        result.SetName(f"{source.GetName()} translated")
        return result, warnings
