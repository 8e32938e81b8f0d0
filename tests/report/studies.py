"""A small comparison whose figures are known."""

from __future__ import annotations

from dataclasses import replace

from gdmnet.compare.costs import CaseCosts, Costs
from gdmnet.compare.study import Found, MethodFacts, Settings, Study, limits, make_scope
from gdmnet.compare.verdict import Verdict
from gdmnet.metrics.frechet import Distance, Distances
from gdmnet.metrics.summary import summarise
from gdmnet.training.settings import EncoderSettings

CASES = tuple("abcdef")
# method -> MAE, sharpness, histogram W1, calls a case
METHODS = {
    "gdm": (40.0, 0.95, 5.0, 8),
    "regression": (38.0, 0.7, 9.0, 8),
    "flow, 4 steps": (50.0, 0.99, 4.0, 32),
    "flow, 16 steps": (60.0, 0.6, 12.0, 128),
}


def make_found(mae, sharpness, w1, calls):
    cases = {}
    for i, case in enumerate(CASES):
        share = 1 + i / 10
        cases[case] = {
            "mae": mae * share,
            "psnr": 40 - mae / 4 + i / 10,
            "ssim": 0.9,
            "ms_ssim": 0.95,
            "sharpness": sharpness,
            "histogram_w1": w1 * share,
            "gradient_w1": w1,
            "spectrum_distance": w1 / 2,
            "edge_width": 1 / sharpness,
            "data_range": 4095.0,
        }
    summary = summarise(cases, units="HU", mask="given")
    costs = Costs(
        parameters=555_000,
        calls_a_window=calls // 8,
        folds=1,
        steps=None,
        device="cpu",
        precision="fp32",
        cases={case: CaseCosts(calls / 10, calls, 700.0 + i) for i, case in enumerate(CASES)},
    )
    distances = Distances(Distance(w1, None, None), Distance(w1, None, None))
    verdict = Verdict("judge", 6, 384, 8, False, distances, None, "nobody", distances)
    return Found(summary, costs, verdict)


def make_study() -> Study:
    found = {name: make_found(*values) for name, values in METHODS.items()}
    scope = make_scope("whole volumes", found, "gdm", in_hu=True)
    facts = {
        name: MethodFacts(
            objective=name.split(",")[0],
            options={},
            steps=None,
            model=f"models/{name}",
            training_steps=4000,
            training_seconds=1234.5,
            encoder="self" if name == "gdm" else None,
            parameters=555_000,
            calls_a_window=1,
            folds=1,
            device="cpu",
            precision="fp32",
        )
        for name in found
    }
    settings = Settings(
        schema=Settings.SCHEMA,
        dataset="Dataset501_Test",
        configuration="3d_fullres",
        folds=("0",),
        epochs=80,
        minutes=None,
        iterations=50,
        learning_rate=None,
        seed=0,
        precision="auto",
        encoder=EncoderSettings(iterations=400),
        step_size=0.5,
        judge_iterations=400,
    )
    study = Study(
        version="0",
        settings=settings,
        held_out="test cases",
        cases=CASES,
        convention="gdmnet",
        match_intensity=None,
        units="HU",
        reference="gdm",
        methods=facts,
        scopes={"volume": scope},
        encoder_seconds={"0": 61.0},
        made={"command": "gdm_compare <501>"},
    )
    return replace(study, notes=limits(study))
