"""Which series of patients in DICOM make pairs; without heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

from gdmnet.settings import Settings, setting

RESAMPLE = ("source", "target")


@dataclass(frozen=True)
class SeriesChoice(Settings):
    """Which series of each patient are meant, and how they come onto one grid.

    Patterns are compared with "MODALITY SeriesDescription" in any case; * is anything.
    """

    sources: tuple[str, ...] = setting(
        ("MR*",), "the source's series, one pattern a channel", flag="--source", metavar="PATTERN"
    )
    target: str = setting("CT*", "the target's series", metavar="PATTERN")
    resample: str | None = setting(
        None, "put this one onto the other's grid (default: none)", choices=RESAMPLE
    )
    register: str | None = setting(
        None,
        "find out how series of two frames of reference lie, where no REG object says so",
        choices=("rigid",),
    )
    untilt: bool = setting(False, "resample CTs of a tilted gantry to a plain grid")
    body_roi: str | None = setting(
        None,
        "the structure (RTSTRUCT) that becomes the body mask, such as 'BODY|EXTERNAL'",
        metavar="NAME",
    )
    regions: str = setting(
        "", "structures that become label files, such as 'PTV*,Bladder'", metavar="NAME,..."
    )

    @property
    def labels(self) -> tuple[str, ...]:
        """The patterns of the regions, in the order of their labels 1, 2, ..."""
        return tuple(name.strip() for name in self.regions.split(",") if name.strip())
