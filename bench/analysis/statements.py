"""What the report says in sentences: the data, the protocol, the machine, and how to run it again."""

import shlex
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from bench.analysis.layout import metric_title
from bench.analysis.selection import Selection
from bench.analysis.tables import ESTIMATED, of_metric
from bench.analysis.wording import (
    ABSENT,
    count,
    is_absent,
    p_equation,
    p_text,
    percent,
    percent_interval,
    plural,
    setting,
    settings,
    significant,
)
from bench.experiments.store import FINISHED, RunRecord

RULES = {
    "truth": "NDCG@K = DCG@K over that of min(K, |T|) hits at the top",
    "hits": "NDCG@K = DCG@K over that of min(K, c) hits at the top, c the hits in the longer list (not the standard)",
}


def data_paragraph(selection: Selection) -> str:
    """Describe the data: counts, filters, split, modalities, fingerprint."""
    data = selection.example.data["dataset"]
    parts: Mapping[str, int] = data["n_interactions"]
    total = sum(parts.values())
    density = total / (data["n_users"] * data["n_items"]) if data["n_users"] and data["n_items"] else float("nan")
    split_counts = ", ".join(f"{name} {n:,}" for name, n in parts.items())
    filters = "; ".join(_step(step) for step in data.get("steps") or []) or "none"
    split = settings({k: v for k, v in (data.get("split") or {}).items() if v is not None}) or "not recorded"
    features = ", ".join(f"{name} ({width} wide)" for name, width in (data.get("modalities") or {}).items())
    return (
        f"{data['n_users']:,} users, {data['n_items']:,} items, {total:,} interactions ({split_counts}; density "
        f"{significant(100 * density)} %). Filters: {filters}. Split: {split}; the same for every run, only the "
        f"training seed varies. Item features: {features or 'none'}. Data fingerprint {data['fingerprint'][:12]}."
    )


def _step(step: Any) -> str:
    if not isinstance(step, Mapping):
        return setting(step)
    given = {name: value for name, value in step.items() if name != "kind" and value is not None}
    return f"{step.get('kind', 'step')} ({settings(given)})" if given else str(step.get("kind", "step"))


def _threads(n: int | None) -> str:
    return "threads not recorded" if n is None else count(n, "thread")


def _finished(selection: Selection) -> list[RunRecord]:
    return [run for run in selection.cells.values() if run.status == FINISHED]


def accuracy_caption(selection: Selection, metric: str) -> str:
    """State what the accuracy cells are and how the metrics are defined."""
    protocol = selection.example.data["protocol"]
    evaluation, training = protocol.get("evaluation") or {}, protocol.get("training") or {}
    masked = {"train": "training items masked", "train+valid": "training and validation items masked"}
    users = {"drop": "users with both test and training items", "keep": "all users with test items"}
    n = len(selection.seeds)
    seeds = plural(selection.seeds, "seed")
    what = f"Mean ± sample standard deviation over {n} seeds ({seeds})." if n > 1 else f"One run each ({seeds})."
    chosen = "test" if evaluation.get("select_on") == "test" else "validation"
    partial = any(0 < len(selection.finished(label)) < n for label in selection.labels)
    short = " A model with fewer is averaged over those that finished." if partial else ""
    closed = any(run.data["training"]["stopped"] == "closed_form" for run in _finished(selection))
    fixed = " A closed form gives the same numbers with every seed." if closed and n > 1 else ""
    return (
        f"{what}{short}{fixed} Best bold, second underlined, "
        f"decided on unrounded means, ties shared; declared primary metric {metric_title(metric)}. All items ranked, "
        f"{masked.get(str(evaluation.get('mask')), 'masking as in the protocol')}; T the user's test items; "
        f"Recall@K = hits in the top K / |T|, {RULES.get(str(evaluation.get('idcg', 'truth')), 'NDCG@K')}; plain mean "
        f"over {users.get(str(evaluation.get('cold_users')), 'users with test items')}. "
        f"Epoch chosen on {chosen} {metric_title(str(training.get('monitor', metric)))}."
    )


def change_note(selection: Selection, baseline: str | None, metric: str) -> str:
    """Say which baseline the last line of the accuracy table is against, and why that one."""
    if not selection.has_reference:
        return (
            f"There are no runs of the reference model {selection.reference} among these, so no model is compared "
            "with it. Run it, or name another with --reference."
        )
    if baseline is None:
        return "No baseline has finished all seeds with a validation metric, so there is no strongest one to name."
    return (
        f"The strongest baseline is {baseline}: the highest mean {metric_title(metric)} on validation (not on test) "
        f"among models that finished all seeds. The last line is {selection.reference}'s change in the test mean "
        "relative to it, with the 95 % paired t interval over seeds (not corrected for the other columns)."
    )


def headline(selection: Selection, comparisons: pd.DataFrame, baseline: str | None, metric: str) -> list[str]:
    """Return the outcome in a sentence or two: the reference against the strongest baseline, over seeds and users."""
    if baseline is None:
        return []
    rows = of_metric(comparisons[comparisons["model"] == baseline], metric)
    lines = []
    for row in rows.to_dict("records"):
        if row["n"] == 0:
            return [f"{selection.reference} could not be compared with {baseline}: {row['note']}."]
        ends = percent_interval(row["relative_ci_low"], row["relative_ci_high"])
        shown = f"95 % interval {ends}" if ends != ABSENT else row["note"]
        who = (
            f"{metric_title(metric)} of {selection.reference} against {baseline}, the baseline strongest on validation"
        )
        scope = {
            "seed": f"{who}: {percent(row['relative'])} over {count(row['n'], 'seed')}",
            "user": f"Over {count(row['n'], 'user')}, for these trained models alone: {percent(row['relative'])}",
        }
        lines.append(f"{scope[row['unit']]} ({shown}{_tested(row)}).")
    return lines


def _tested(row: Mapping[Hashable, Any]) -> str:
    p = row.get("p_t")
    if is_absent(p):
        return ""
    corrected = f"{p_text(row['p_t_holm'])} after Holm over {count(row['family_size'], 'comparison')}"
    return f"; paired t: {p_equation(row['p_t'])}, {corrected}"


def machine(selection: Selection) -> str:
    """Describe the machine of the runs."""
    environment = selection.example.data.get("environment") or {}
    gpu = environment.get("gpu")
    where = f"GPU {gpu}" if gpu else "no GPU used"
    packages = ", ".join(f"{name} {version}" for name, version in (environment.get("packages") or {}).items())
    return (
        f"{setting(environment.get('cpu'))}, {_threads(environment.get('n_threads'))}; {where} (device "
        f"{setting(environment.get('device'))}); {setting(environment.get('platform'))}; Python "
        f"{setting(environment.get('python'))}, {packages}."
    )


def cost_caption(selection: Selection, efficiency: pd.DataFrame) -> str:
    """State what the cost cells are."""
    users = efficiency.loc[efficiency["phase"] == "inference", "n"].dropna()
    all_users = f"all {int(users.max()):,} test users" if len(users) else "all test users"
    parts = [
        "Medians over timed runs, lower is better. An epoch is sampling, forward, backward and update, without "
        "validation and without the first, warm-up epoch; quartiles are within a run. Training is the construction "
        f"plus all epochs trained. Inference is one pass of preparing, scoring and ranking for {all_users}. Host "
        "memory is the growth of the process at its peak."
    ]
    if bool((efficiency["source"] == ESTIMATED).any()):
        parts.append("≈: measured in a short pass of its own; training is then the median epoch times the epochs.")
    timed = efficiency[efficiency["phase"] == "inference"].groupby("model")["seed"].nunique()
    finished = {label: len(selection.finished(label)) for label in selection.labels}
    fewer = [f"{label} {n} of {finished[str(label)]}" for label, n in timed.items() if n < finished[str(label)]]
    if fewer:
        parts.append(f"Runs timed, where not all: {', '.join(fewer)}.")
    return " ".join(parts)


def protocol_warnings(selection: Selection) -> list[str]:
    """Return what a reader must be told about the protocol beside every number."""
    evaluation = selection.example.data["protocol"].get("evaluation") or {}
    if evaluation.get("select_on", "valid") == "valid":
        return []
    return [
        f"The protocol '{evaluation.get('name')}' chooses the epoch on the TEST split: all numbers here are optimistic."
    ]


def protocol_note(selection: Selection) -> str:
    """List every setting of the protocol."""
    protocol = selection.example.data["protocol"]
    return "Protocol: " + "; ".join(f"{part}: {settings(values)}" for part, values in protocol.items()) + "."


def program_note(selection: Selection) -> str:
    """Say which state of the program made the runs."""
    commits = set()
    for run in selection.cells.values():
        git = run.data.get("git") or {}
        if run.status == FINISHED and git.get("commit"):
            changed = " with uncommitted changes" if git.get("dirty") else ""
            commits.add(f"{str(git['commit'])[:12]}{changed}")
    return f"Program: commit {', '.join(sorted(commits))}." if commits else "Program: not run from a git checkout."


def reproduce_commands(selection: Selection, metric: str, *, pvalues: bool) -> list[str]:
    """Return the commands that make these runs and this report."""
    protocol = selection.example.data["protocol"]
    evaluation, training = protocol.get("evaluation") or {}, protocol.get("training") or {}
    common = ["--datasets", selection.dataset, "--seeds", ",".join(map(str, selection.seeds)) + _list_mark(selection)]
    for option, value in (
        ("--evaluation", evaluation.get("name")),
        ("--max-epochs", training.get("max_epochs")),
        ("--patience", training.get("patience")),
    ):
        common += [option, str(value)] if value is not None else []
    plain = [label for label in selection.labels if not selection.runs(label)[0].data.get("overrides")]
    commands = [["bench", "run", "--models", ",".join(plain), *common]] if plain else []
    for label in selection.labels:
        run = selection.runs(label)[0]
        sets: list[str] = []
        for name, value in (run.data.get("overrides") or {}).items():
            sets += ["--set", f"{run.model}.{name}={_toml(value)}"]
        if sets:
            commands.append(["bench", "run", "--models", run.model, *common, *sets])
    report = ["bench", "report", "--datasets", selection.dataset, "--reference", selection.reference]
    commands.append([*report, "--metric", metric, *(["--pvalues"] if pvalues else [])])
    return [shlex.join(command) for command in commands]


def _list_mark(selection: Selection) -> str:
    """Keep a single seed a list: a bare number would be read as a count of seeds."""
    return "," if len(selection.seeds) == 1 else ""


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    return str(value)
