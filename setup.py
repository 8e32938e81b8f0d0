"""Installs gdmnet; the version is written once, in gdmnet/__init__.py."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
COMMANDS = (
    "plan_and_preprocess",
    "train",
    "predict",
    "evaluate",
    "report",
    "compare",
    "convert",
    "check",
    "demo",
    "export_model",
    "install_model",
    "info",
    "simulate_sparse_view",
)
ENCODERS = ("monai>=1.4", "einops", "safetensors")
ONNX = ("onnx", "onnxruntime", "openvino")
TEST = ("pytest", "pytest-cov", "pytest-xdist", "hypothesis", *ENCODERS, *ONNX)


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
    # Convolutions in 3D under automatic mixed precision are four times slower in torch 2.9.
    install_requires=[
        "torch>=2.6,!=2.9.*",
        "numpy>=1.26",
        "scipy",
        "SimpleITK>=2.3",
        "pydicom>=3.0",
        "batchgenerators>=0.25.1",
        "scikit-image>=0.22",
        "acvl-utils>=0.2.6",
        "connected-components-3d",
        "blosc2",
        "Pillow",
        "matplotlib>=3.9",
        "tqdm",
    ],
    extras_require={
        "encoders": ENCODERS,
        "onnx": ONNX,
        "test": TEST,
        "dev": (*TEST, "ruff", "mypy"),
    },
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
