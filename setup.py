"""Installs gdmnet; the version is written once, in gdmnet/__init__.py."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
COMMANDS = (
    "plan_and_preprocess",
    "train",
    "check_encoder",
    "predict",
    "evaluate",
    "judge",
    "report",
    "find_best",
    "compare",
    "convert_dicom",
    "convert_pairs",
    "convert_synthrad",
    "check",
    "demo",
    "export_model",
    "install_model",
    "info",
    "simulate_sparse_view",
    "reconstruct_fbp",
)
TEST = ("pytest", "pytest-cov", "hypothesis", "pydicom")


def read_version() -> str:
    """The version as text, so that building needs none of the dependencies."""
    text = (HERE / "gdmnet" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("gdmnet/__init__.py has no line '__version__ = ...'")
    return match.group(1)


setup(
    name="gdmnet",
    version=read_version(),
    description="Self-configuring 3D medical image translation in one network step",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["gdmnet", "gdmnet.*"]),
    package_data={"gdmnet": ["*/*.html", "*/*.css", "*/*.js"]},
    # scipy and Pillow are hard requirements of scikit-image, blosc2 is one of acvl-utils: what is
    # imported arrives with what is listed, and tests/test_setup.py keeps it so.
    install_requires=[
        "torch>=2.6",
        "numpy>=1.26",
        "SimpleITK>=2.3",
        "batchgenerators>=0.25.1",
        "scikit-image>=0.22",
        "acvl-utils>=0.2.6",
        "tqdm",
    ],
    extras_require={"test": TEST, "dev": (*TEST, "ruff", "mypy")},
    entry_points={
        "console_scripts": [f"gdm_{name} = gdmnet.commands.{name}:main" for name in COMMANDS]
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: Healthcare Industry",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
