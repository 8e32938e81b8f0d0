"""The end of gdm_compare: everything found as one record, with its pictures."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from gdmnet import __version__
from gdmnet.compare import judging as judging
from gdmnet.compare.bench import Bench
from gdmnet.compare.contest import FIDELITY
from gdmnet.compare.study import SLAB, VOLUME, MethodFacts, Scope, Study, limits, make_scope
from gdmnet.compare.study_pictures import Shown, case_pictures, telling_cases
from gdmnet.compare.variant import Method
from gdmnet.compare.work import encoder_seconds
from gdmnet.metrics.folders import Options as ScoreOptions
from gdmnet.models.device import describe_devices

Scopes = dict[Method, tuple[str, ...]]


def make_study(bench: Bench, scopes: Scopes, scoring: ScoreOptions, device: str) -> Study:
    """Score and judge what was predicted, and put it together.

    Args:
        bench: of the comparison.
        scopes: method -> what it is judged on.
        scoring: convention, intensity match, processes.
        device: that predicted.

    Raises:
        DatasetError: an image cannot be read or scored.
    """
    methods = list(scopes)
    reference = next((m for m in methods if m.variant.objective == "gdm"), methods[0])
    target = bench.plan.configuration(bench.settings.configuration).target
    in_hu = target.scheme == "ct"
    facts: dict[str, MethodFacts] = {}
    made: dict[str, Scope] = {}
    for scope in (SLAB, VOLUME):
        judged = [method for method in methods if scope in scopes[method]]
        if not judged:
            continue
        found = judging.find(bench, judged, scope, scoring)
        for method in judged:
            costs = found[method.name].costs
            facts.setdefault(method.name, judging.facts_of(bench, method, costs))
        title = "whole volumes" if scope == VOLUME else f"central slab of {bench.slab} voxels"
        own = reference if reference in judged else judged[0]
        made[scope] = make_scope(title, found, own.name, in_hu=in_hu)
    study = Study(
        version=__version__,
        settings=bench.settings,
        held_out=bench.held_out.words,
        cases=tuple(case.identifier for case in bench.held_out.cases),
        convention=scoring.convention,
        match_intensity=scoring.match_intensity,
        units="HU" if in_hu else "%",
        reference=reference.name,
        methods=facts,
        scopes=made,
        encoder_seconds=encoder_seconds(bench),
        made={
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "date": datetime.now().astimezone().isoformat(" ", "minutes"),
            "device": f"{device}: {describe_devices().get(device, device)}",
        },
    )
    return replace(study, notes=limits(study))


def make_pictures(bench: Bench, study: Study, scopes: Scopes) -> list[str]:
    """The telling cases of the first scope as HTML.

    Raises:
        DatasetError: an image cannot be read.
    """
    name, scope = next(iter(study.scopes.items()))
    errors = {
        case: values[FIDELITY] for case, values in scope.methods[study.reference].cases.items()
    }
    files = {m.name: bench.predicted(m, name) for m in scopes if name in scopes[m]}
    own = files[study.reference]
    return [
        case_pictures(
            study,
            scope,
            rank,
            Shown(own[case][0], {method: found[case][1] for method, found in files.items()}),
        )
        for rank, case in telling_cases(errors).items()
    ]
