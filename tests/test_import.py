"""``import dino_nb`` is cheap: it loads nothing heavy, and torch only when a name is used."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dino_nb

HEAVY = ("timm", "matplotlib", "ipywidgets", "pycocotools", "scipy", "gdown", "requests", "PIL", "torchvision")


def python(code):
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_loads_nothing_heavy():
    loaded = python(f"import sys, dino_nb; print(*(name for name in {HEAVY} if name in sys.modules))")
    assert loaded == ""


def test_naming_what_is_light_loads_nothing_heavy():
    loaded = python(
        "import sys, dino_nb; dir(dino_nb); dino_nb.ModelConfig, dino_nb.zoo, dino_nb.UserError;"
        f"print(*(name for name in {HEAVY} if name in sys.modules))"
    )
    assert loaded == ""


def test_describing_the_session_loads_no_widgets_and_no_figures():
    loaded = python(
        "import sys, dino_nb; dino_nb.colab, dino_nb.info;"
        "print(*(name for name in ('matplotlib', 'ipywidgets', 'pycocotools') if name in sys.modules))"
    )
    assert loaded == ""


def test_importing_costs_little_beyond_torch():
    seconds = python(
        "import time, torch; started = time.perf_counter(); import dino_nb; print(time.perf_counter() - started)"
    )
    assert float(seconds) < 0.3


def test_every_public_name_exists():
    missing = []
    for name in dino_nb.__all__:
        try:
            getattr(dino_nb, name)
        except (ImportError, AttributeError) as error:
            missing.append(f"{name}: {error}")
    assert not missing
    assert set(dino_nb.__all__) <= set(dir(dino_nb))


def test_public_names_are_the_same_for_editors_and_at_run_time():
    """What a type checker sees stands in a block of its own, which could fall behind."""
    tree = ast.parse(Path(dino_nb.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module
        if node.module not in ("dino_nb", "dino_nb.checkpoints")
        else f"{node.module}.{alias.name}"
        for node in block.body
        for alias in node.names
    }
    assert seen == {**dino_nb._WHERE, **dino_nb._MODULES}


def test_unknown_name_is_an_attribute_error_with_the_nearest():
    assert not hasattr(dino_nb, "nonsense")
    with pytest.raises(AttributeError, match=r"no attribute 'fine_tune'\. Did you mean 'finetune'\?"):
        dino_nb.fine_tune  # noqa: B018


def test_packages_that_are_imported_are_declared():
    """Everything that the package imports is a requirement, or belongs to an extra that names it."""
    root = Path(__file__).parents[1]
    declared = re.search(r"^dependencies = \[(.*?)^\]", (root / "pyproject.toml").read_text(), re.S | re.M)[1]
    declared = set(re.findall(r'"([^"]+)"', declared))
    lines = (root / "requirements.txt").read_text().splitlines()
    assert {line for line in lines if line and line[0] != "#"} - declared == {"jupytext>=1.16", "nbval>=0.11"}
    names = {re.split(r"[<>=]", line)[0].replace("pyyaml", "yaml").replace("pillow", "PIL") for line in declared}
    optional = {"av", "google", "IPython", "nvtx", "onnx", "onnxruntime", "openvino", "pandas", "pillow_heif"}
    optional |= {"submitit", "supervision", "tensorboard", "trackers"}
    optional.add("huggingface_hub")  # timm brings it
    used = set()
    for path in (root / "dino_nb").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                used.add(node.module.partition(".")[0])
    assert used - set(sys.stdlib_module_names) - {"dino_nb", "urllib3"} - names - optional == set()
