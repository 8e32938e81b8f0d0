"""The Pareto front: what nothing else beats on every axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def pareto_front(points: Mapping[str, Sequence[float | None]]) -> tuple[str, ...]:
    """Names of the points that no other dominates; on every axis less is better.

    A point dominates another if it is nowhere worse and somewhere better (Pareto 1906); equal
    points do not dominate each other. Points with an unknown coordinate are left out.

    Args:
        points: name -> coordinates, equally many each.
    """
    known: dict[str, tuple[float, ...]] = {}
    for name, point in points.items():
        values = [value for value in point if value is not None]
        if len(values) == len(point):
            known[name] = tuple(values)
    return tuple(
        name
        for name, own in known.items()
        if not any(_dominates(other, own) for other in known.values())
    )


def _dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
