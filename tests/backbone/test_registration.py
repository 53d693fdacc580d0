"""`import dualtoken` registers the models in timm, in either order of imports, and stays light."""

import subprocess
import sys

import pytest


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    "imports", ["import dualtoken, timm", "import timm, dualtoken", "import dualtoken.backbone, timm"]
)
def test_registered_in_either_order(imports):
    assert python(f"{imports}; print(timm.is_model('dualtoken_vit_t_mix'))") == "True\n"


def test_import_needs_no_torch():
    code = "import dualtoken, sys; print([m for m in ('torch', 'timm', 'numpy', 'pydantic') if m in sys.modules])"
    assert python(code) == "[]\n"


def test_unknown_attribute():
    import dualtoken

    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = dualtoken.trian
    assert set(dualtoken.__all__) <= set(dir(dualtoken))
