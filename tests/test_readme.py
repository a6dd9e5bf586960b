"""What the README shows works as it stands there."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.cli import main
from bench.cli.quickstart import DATASET, MODELS, SEEDS
from bench.data import load_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return found


def bench(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code


def test_the_model_of_the_readme_runs_by_the_commands_of_the_readme(in_empty_folder):
    Path("mymodule.py").write_text(block("python"))
    (run,) = re.findall(r"    bench (run .*mymodule:MyModel.*)", README)
    (report,) = re.findall(r"    bench (report .*mymodule:MyModel.*)", README)
    bench(*run.split(), "--max-epochs", "3")
    bench(*report.split())
    assert "mymodule:MyModel[embedding_dim=16]" in Path("results/toy/report.md").read_text()


def test_the_recipe_of_the_readme_prepares_the_data_it_describes(in_empty_folder):
    Path("datasets").mkdir()
    Path("mydata").mkdir()
    rows = [(user, item, split) for user in range(12) for item, split in ((user, 0), (user + 1, 1), (user + 2, 2))]
    pd.DataFrame(rows, columns=["user", "item", "split"]).to_csv("mydata/interactions.csv.gz", index=False)
    np.save("mydata/visual.npy", np.eye(14, 3, dtype=np.float16))
    Path("datasets/mydata.toml").write_text(block("toml"))
    bench("prepare", "mydata")
    assert Path("datasets/prepared/mydata/features/visual.npy").is_file()


def test_the_quickstart_is_what_the_readme_says_it_is():
    assert f"bench prepare {DATASET}\n" in README
    assert f"bench run --datasets {DATASET} --models {MODELS} --seeds {SEEDS}\n" in README
    assert f"bench report --datasets {DATASET} --pvalues\n" in README


def test_the_full_recipe_of_the_documents_is_a_valid_one(tmp_path):
    (recipe,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/datasets.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "mydata.toml").write_text(recipe)
    assert [step.kind for step in load_recipe(tmp_path / "mydata.toml").steps] == [
        "positive",
        "window",
        "sample",
        "dedupe",
        "available",
        "core",
    ]


def test_every_shipped_recipe_travels_in_the_wheel():
    listed = re.findall(r'"datasets/(.*?\.toml)" = "bench/recipes/\1"', (ROOT / "pyproject.toml").read_text())
    assert sorted(listed) == sorted(path.name for path in (ROOT / "datasets").glob("*.toml"))


def test_every_shipped_preset_fits_its_models():
    from bench.experiments.plan import configure
    from bench.models import load_presets

    paths = sorted((ROOT / "bench/presets").glob("*.toml"))
    assert paths
    for path in paths:
        configure(list(load_presets(path.stem)), [], path.stem)
