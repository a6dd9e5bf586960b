"""`bench quickstart`: from nothing to an honest table on real data."""

from pathlib import Path

from bench.cli import prepare, report, run
from bench.cli.console import DataDir, Device, ResultsDir, note

NAME = "quickstart"
EXAMPLES = "Example: bench quickstart"
DATASET = "ml-100k"
MODELS = "popularity,itemknn,ease,mf-bpr,lightgcn,diffrec,ld4mrec"
SEEDS = "3"


def command(
    device: Device = "auto",
    data_dir: DataDir = Path("datasets"),
    results_dir: ResultsDir = Path("results"),
) -> None:
    """Prepare MovieLens-100K, run seven models with three seeds each, and report. A few minutes on two CPU cores."""
    note(f"1/3  bench prepare {DATASET}")
    prepare.command([DATASET], data_dir=data_dir)
    note(f"2/3  bench run --datasets {DATASET} --models {MODELS} --seeds {SEEDS}")
    run.command(
        models=MODELS,
        datasets=DATASET,
        seeds=SEEDS,
        device=device,
        data_dir=data_dir,
        results_dir=results_dir,
    )
    note(f"3/3  bench report --datasets {DATASET} --pvalues")
    report.command(datasets=DATASET, models=MODELS, seeds=SEEDS, pvalues=True, results_dir=results_dir)
