import json

import numpy as np
import pytest
from ellipses import MU, inside, line_integrals, water_and_air

from gdmnet import codec
from gdmnet.commands.reconstruct_fbp import main
from gdmnet.data.volume import read_volume
from gdmnet.geometry import Geometry
from gdmnet.tomography.record import Acquisition
from gdmnet.tomography.scan import Grid, covering_scan

GRID = Grid((40, 48), (2.0, 1.75))
SHAPES = water_and_air(30.0)


@pytest.fixture
def home(tmp_path):
    scan = covering_scan(GRID, 180, arc=180.0)
    geometry = Geometry((2, 40, 48), (3.0, 2.0, 1.75), (-20.0, 5.0, 100.0))
    codec.save(Acquisition(scan, geometry, MU), tmp_path / "scan.json")
    sinogram = line_integrals(SHAPES, scan)
    np.save(tmp_path / "sinogram.npy", np.concatenate([sinogram, 0 * sinogram]))
    return tmp_path


def call(home, *options, output="out/ct.nii.gz", sinogram="sinogram.npy"):
    files = ["-i", home / sinogram, "--geometry", home / "scan.json", "-o", home / output]
    return main([*(str(item) for item in files), *options])


@pytest.mark.parametrize("options", [[], ["--filter", "ram-lak"]])
def test_a_sinogram_becomes_a_ct_in_hounsfield_units(home, capsys, options):
    assert call(home, *options) == 0
    assert "written: " in capsys.readouterr().out
    volume = read_volume(home / "out/ct.nii.gz")
    assert volume.geometry.itk_origin == pytest.approx((-20, 5, 100))
    assert volume.geometry.spacing == pytest.approx((3, 2, 1.75))
    y, x = GRID.coordinates()
    water, air = SHAPES
    hu = volume.array[0]
    deep = inside(water, y[:, None], x, 5) & ~inside(air, y[:, None], x, -5)
    assert abs(hu[0][deep].mean()) < 5
    assert abs(hu[0][inside(air, y[:, None], x, 4)].mean() + 1000) < 15
    assert (hu[1] == -1000).all()
    assert (hu == np.rint(hu)).all()


def test_refusals_are_one_line_and_status_two(home, capsys):
    for change, words in (
        ({"output": "ct.dcm"}, "unknown file ending"),
        ({"sinogram": "none.npy"}, "none.npy: file not found"),
        ({"sinogram": "scan.json"}, "not a .npy or .npz"),
    ):
        assert call(home, **change) == 2
        told = capsys.readouterr().err.strip()
        assert told.startswith("error: ")
        assert told.count("\n") == 0
        assert words in told
    data = json.loads((home / "scan.json").read_text())
    data["scan"]["n_views"] = 90
    (home / "scan.json").write_text(json.dumps(data))
    assert call(home) == 2
    assert "(2, 180, 69), but its geometry says (2, 90, 69)" in capsys.readouterr().err
