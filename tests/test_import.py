"""``import dino_nb`` is cheap: it loads nothing heavy, and torch only when a name is used."""

import subprocess
import sys

import dino_nb

HEAVY = ("timm", "matplotlib", "ipywidgets", "pycocotools", "scipy", "gdown", "requests", "PIL", "torchvision")


def python(code):
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_loads_nothing_heavy():
    loaded = python(f"import sys, dino_nb; print(*(name for name in {HEAVY} if name in sys.modules))")
    assert loaded == ""


def test_naming_everything_loads_no_widgets_and_no_figures():
    """What the package offers is looked up without the libraries that only some of it draws or reads with."""
    loaded = python(
        "import sys, dino_nb; dir(dino_nb); dino_nb.ModelConfig, dino_nb.zoo, dino_nb.colab, dino_nb.info;"
        f"print(*(name for name in {HEAVY} if name in sys.modules))"
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


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(dino_nb, "nonsense")
