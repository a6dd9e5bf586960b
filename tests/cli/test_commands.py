"""The commands from end to end, as a user types them, on generated data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from bench.cli import main
from bench.workspace import PACKAGE

pytestmark = pytest.mark.usefixtures("in_empty_folder")
QUICK = ["--max-epochs", "4"]


def bench(*arguments, code=0):
    """Run a command in this process and hold it to its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code or 0) == code


def fresh(*arguments, code=0):
    """Run Python in a process of its own and return what it printed."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done


def tree(folder="."):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_from_an_empty_folder_to_a_report(capsys):
    bench("prepare", "toy")
    assert "prepared" in capsys.readouterr().out
    bench("prepare", "toy")
    assert "already prepared" in capsys.readouterr().err
    models = "popularity,ease,mf-bpr,ld4mrec"
    bench("run", "--datasets", "toy", "--models", models, "--seeds", "2", *QUICK)
    assert "8 of 8 cells finished" in capsys.readouterr().err
    bench("report", "--datasets", "toy", "--pvalues")
    shown = capsys.readouterr().out
    report = Path("results/toy/report.md").read_text()
    for model in models.split(","):
        assert model in shown
        assert model in report
    names = {path.name for path in Path("results/toy").iterdir()}
    assert names == {
        "runs",
        "report.md",
        "accuracy.csv",
        "efficiency.csv",
        "runs.csv",
        "summary.csv",
        "comparisons.csv",
    }
    accuracy = pd.read_csv("results/toy/accuracy.csv")
    assert list(accuracy.columns) == ["dataset", "model", "seed", "split", "metric", "k", "value"]
    assert set(accuracy["seed"]) == {1, 2}


def test_a_second_call_finds_every_cell_there(capsys):
    command = ("run", "--datasets", "toy", "--models", "popularity,ease", "--seeds", "2")
    bench(*command)
    before = tree("results")
    bench(*command)
    assert "4 cells; 4 finished before; 0 to run" in capsys.readouterr().err
    assert tree("results") == before


def test_a_cell_under_way_in_another_process_is_not_called_finished(capsys):
    command = ("run", "--datasets", "toy", "--models", "popularity,ease", "--seeds", "1")
    bench(*command)
    (path,) = Path("results/toy/runs").glob("ease-*/run.json")
    process = psutil.Process()
    under_way = {"status": "running", "process": {"pid": process.pid, "started": process.create_time()}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **under_way}))
    capsys.readouterr()
    bench(*command)
    shown = capsys.readouterr().err
    assert "2 cells; 1 finished before; 0 to run; 1 under way in another process" in shown
    assert "1 of 2 cells finished, 1 under way in another process" in shown


def test_without_a_dataset_those_prepared_here_are_taken(capsys):
    bench("prepare", "toy")
    bench("run", "--models", "popularity", "--seeds", "1")
    capsys.readouterr()
    bench("report", "--reference", "popularity", "--json")
    assert set(json.loads(capsys.readouterr().out)) == {"toy"}


def test_a_dry_run_shows_the_cells_and_runs_none(capsys):
    bench("run", "--datasets", "toy", "--models", "ease,lightgcn", "--seeds", "3,5", "--dry-run", "--json")
    cells = json.loads(capsys.readouterr().out)
    assert [(cell["model"], cell["seed"], cell["state"]) for cell in cells] == [
        ("ease", 3, "new"),
        ("lightgcn", 3, "new"),
        ("ease", 5, "new"),
        ("lightgcn", 5, "new"),
    ]
    assert not Path("results").exists()


def test_side_by_side_cells_are_reported_with_times_measured_alone(capsys):
    bench("run", "--datasets", "toy", "--models", "popularity,mf-bpr", "--seeds", "2", "--jobs", "2", *QUICK)
    bench("report", "--reference", "mf-bpr", "--json")
    sources = {row["source"] for row in json.loads(capsys.readouterr().out)["toy"]["efficiency"]}
    assert "timing pass" in sources
    assert "run" not in sources


MY_MODEL = """
from typing import Annotated

import torch
from annotated_types import Gt
from torch import nn


class MyModel(nn.Module):
    batching = "pairs"

    def __init__(self, interactions, features, *, embedding_dim: Annotated[int, Gt(0)] = 8,
                 learning_rate: Annotated[float, Gt(0)] = 0.02, batch_size: Annotated[int, Gt(0)] = 512):
        super().__init__()
        n_users, n_items = interactions.shape
        self.users, self.items = nn.Embedding(n_users, embedding_dim), nn.Embedding(n_items, embedding_dim)
        self.learning_rate, self.batch_size = learning_rate, batch_size

    def loss(self, batch):
        difference = self.items(batch.positives) - self.items(batch.negatives)
        return nn.functional.softplus(-(self.users(batch.users) * difference).sum(1)).mean()

    def score(self, users):
        return self.users(users) @ self.items.weight.T
"""


def test_a_third_partys_model_runs_by_its_import_path(capsys):
    Path("mymodule_cli.py").write_text(MY_MODEL)
    own = "mymodule_cli:MyModel"
    bench("run", "--datasets", "toy", "--models", f"{own},popularity", "--seeds", "2", *QUICK)
    bench("report", "--reference", own, "--pvalues")
    assert own in Path("results/toy/report.md").read_text()
    bench("run", "--datasets", "toy", "--models", own, "--set", f"{own}.embedding_dim=0", code=2)
    assert "expected an integer > 0, found 0" in capsys.readouterr().err


def own_dataset(**changes):
    """Write a recipe and its raw files, the split given and one feature matrix."""
    rng = np.random.default_rng(0)
    rows = [(u, i) for u in range(30) for i in rng.permutation(20)[:8]]
    frame = pd.DataFrame(rows, columns=["user", "item"])
    frame["split"] = ([0] * 6 + [1, 2]) * 30
    features = rng.normal(size=(20, 5))
    frame, features = changes.get("frame", lambda f: f)(frame), changes.get("features", lambda f: f)(features)
    Path("raw").mkdir(exist_ok=True)
    Path("datasets").mkdir(exist_ok=True)
    frame.to_csv("raw/pairs.csv", index=False)
    np.save("raw/visual.npy", features)
    Path("datasets/mydata.toml").write_text(
        'name = "mydata"\n'
        'sources = [{ kind = "local", folder = "../raw", '
        'interactions = { file = "pairs.csv", user = "user", item = "item", split = "split" } }]\n'
        '[split]\nmethod = "given"\n[features]\nvisual = { encoder = "file", file = "visual.npy" }\n'
    )


def test_a_users_own_data_runs_by_a_recipe_of_ten_lines():
    own_dataset()
    bench("run", "--datasets", "mydata", "--models", "ease,ld4mrec", "--seeds", "1", *QUICK)
    bench("report", "--datasets", "mydata")
    assert "ld4mrec" in Path("results/mydata/report.md").read_text()


def with_nan(features):
    features[3, 1] = np.nan
    return features


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frame": lambda f: f.rename(columns={"item": "itm"})}, "itm"),
        ({"features": with_nan}, "visual"),
        ({"features": lambda f: f[:12]}, "visual"),
        ({"frame": lambda f: f.replace({"split": {2: 7}})}, "7"),
    ],
)
def test_bad_raw_data_is_explained_and_leaves_what_was_there(changes, words, capsys):
    own_dataset()
    bench("prepare", "mydata")
    before = tree("datasets/prepared")
    own_dataset(**changes)
    bench("prepare", "mydata", "--force", code=2)
    message = capsys.readouterr().err
    assert words in message.partition("Error:")[2]
    assert "Traceback" not in message
    assert tree("datasets/prepared") == before


def test_users_with_too_few_interactions_for_a_split_are_explained(capsys):
    own_dataset(frame=lambda f: f.drop(columns="split").groupby("user").head(2))
    recipe = Path("datasets/mydata.toml")
    recipe.write_text(recipe.read_text().replace(', split = "split"', "").replace('"given"', '"random"'))
    bench("prepare", "mydata", code=2)
    assert "fewer than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "lightgnc"], "Did you mean lightgcn"),
        (["--models", "ease", "--datasets", "toi"], "Did you mean toy"),
        (["--models", "lightgcn", "--set", "lightgcn.layers=2"], "Did you mean n_layers"),
        (["--models", "lightgcn", "--set", "lightgcn.n_layers=x"], "expected an integer"),
        (["--models", "ease", "--seeds", "x"], "--seeds expects"),
        (["--models", "ease", "--evaluation", "mmrek"], "Did you mean mmrec"),
        (["--models", "recbole:EASY"], "Did you mean EASE"),
        (["--models", "nomodule_here:Model"], "cannot be imported"),
        (["--models", "ease", "--device", "tpu"], "--device expects"),
    ],
)
def test_wrong_words_are_explained_before_anything_is_written(arguments, words, capsys):
    defaults = [] if "--datasets" in arguments else ["--datasets", "toy"]
    bench("run", *defaults, *arguments, code=2)
    message = " ".join(capsys.readouterr().err.split())
    assert words in message
    assert "Traceback" not in message
    assert not list(Path().glob("results/*"))


@pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import torch, sys; sys.exit(torch.cuda.is_available())"]).returncode == 1,
    reason="this machine has a CUDA device",
)
def test_cuda_without_a_gpu_is_refused(capsys):
    bench("run", "--datasets", "toy", "--models", "ease", "--device", "cuda", code=2)
    assert "expected a CUDA GPU" in capsys.readouterr().err


def test_a_results_folder_that_cannot_be_written_is_refused_before_any_work(capsys, monkeypatch):
    Path("results").mkdir()

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    bench("run", "--datasets", "toy", "--models", "ease", code=2)
    assert "cannot be written (Permission denied)" in " ".join(capsys.readouterr().err.split())
    assert not list(Path("results").iterdir())


def test_a_failed_cell_is_shown_as_failed_everywhere(capsys):
    Path("failing_cli.py").write_text(MY_MODEL.replace(".mean()", ".mean() * float('nan')"))
    own = "failing_cli:MyModel"
    bench("run", "--datasets", "toy", "--models", f"{own},popularity", "--seeds", "2", *QUICK, code=1)
    assert "loss became nan in epoch 1, step 1" in " ".join(capsys.readouterr().err.split())
    bench("report", "--reference", "popularity", "--pvalues")
    report = Path("results/toy/report.md").read_text()
    assert own in report
    assert "failed" in report
    assert "The loss became nan" in report


def test_the_check_passes_on_itself_and_fails_when_a_model_moves(capsys):
    models = ["--models", "ease,mf-bpr", "--seeds", "2"]
    bench("check", "--update", "--max-epochs", "4", *models)
    bench("check", "--cost-factor", "50")
    assert "nothing moved" in capsys.readouterr().err
    path = Path("results/reference/toy.json")
    reference = json.loads(path.read_text())
    ease = reference["models"]["ease"]
    for name in ("metrics", "mean"):
        stored = ease[name]["recall@20"]
        ease[name]["recall@20"] = [v * 1.1 for v in stored] if isinstance(stored, list) else stored * 1.1
    path.write_text(json.dumps(reference))
    bench("check", "--cost-factor", "50", code=1)
    assert "moved" in capsys.readouterr().out


def test_a_check_without_a_reference_says_how_to_make_one(capsys):
    bench("check", code=2)
    assert "bench check --update" in " ".join(capsys.readouterr().err.split())


def test_a_report_without_runs_says_what_to_do(capsys):
    bench("report", code=2)
    assert "bench run" in capsys.readouterr().err


def test_a_dataset_without_the_reference_does_not_keep_the_others_from_being_tested(capsys):
    own_dataset()
    bench("run", "--datasets", "toy", "--models", "ease,popularity", "--seeds", "2")
    bench("run", "--datasets", "mydata", "--models", "popularity", "--seeds", "2")
    bench("report", "--pvalues", "--reference", "ease")
    assert "mydata: no runs of ease, so nothing is tested there" in capsys.readouterr().err
    assert "p (t)" in Path("results/toy/report.md").read_text()
    assert Path("results/mydata/report.md").is_file()
    bench("report", "--datasets", "mydata", "--pvalues", "--reference", "ease", code=2)


def test_the_listings_name_every_model_and_dataset(capsys):
    bench("models", "--json")
    assert {"popularity", "ld4mrec"} <= {spec["name"] for spec in json.loads(capsys.readouterr().out)}
    bench("models", "show", "lightgcn", "--json")
    assert json.loads(capsys.readouterr().out)["hyperparameters"]["n_layers"]["default"] == 3
    bench("datasets", "--json")
    assert {"toy", "ml-100k"} <= {recipe["name"] for recipe in json.loads(capsys.readouterr().out)}
    bench("prepare", "toy")
    bench("datasets", "show", "toy")
    assert "Signal" in capsys.readouterr().out
    bench("doctor", "--json")
    assert "torch" in json.loads(capsys.readouterr().out)["packages"]


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["models"], ["datasets"]])
def test_help_and_listings_do_not_load_torch(arguments):
    code = (
        "import sys\nfrom bench.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    fresh("-c", code)


def test_the_program_runs_as_a_module_and_progress_stays_out_of_stdout():
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-m", "bench", "run", "--datasets", "toy", "--models", "popularity", "--seeds", "1"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["status"] == "finished"
    assert "[1/1] popularity on toy, seed 1" in done.stderr
