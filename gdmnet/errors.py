"""Errors that a person at the terminal can act on: what is wrong, where, and what to do."""


class GdmnetError(Exception):
    """Base of every error that the user can fix; commands print it as one line and exit with 2."""


class DatasetError(GdmnetError):
    """A raw dataset, an image file or a folder of images is not as it must be."""


class PlanError(GdmnetError):
    """A fingerprint, plan or run file cannot be read, or a plan cannot be made."""


class CheckpointError(GdmnetError):
    """A model folder or checkpoint is missing, incomplete or belongs to something else."""


class TrainingError(GdmnetError):
    """Training cannot start or go on."""


class DeviceError(GdmnetError):
    """The requested computing device is not there."""


class OutputError(GdmnetError):
    """A result cannot be written."""


class BusyError(GdmnetError):
    """Another process is at work in a folder."""


class SettingError(GdmnetError):
    """A setting has a value that is out of its bounds or of another type."""


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory ran out, which torch and ITK tell only by the words of a RuntimeError."""
    words = str(problem).lower()
    ran_out = "allocate memory" in words or "out of memory" in words
    return isinstance(problem, MemoryError) or (
        isinstance(problem, (RuntimeError, OSError)) and ran_out
    )
