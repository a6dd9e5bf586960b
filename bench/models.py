"""The registry: which models there are, where their classes lie, and which hyper-parameters they take.

Listing is free of torch; a class is imported only when its hyper-parameters are needed. A model that is not registered
is named by import path, `module:Class`, and treated like the others; one of RecBole's is named `recbole:Class`.
"""

import importlib
import inspect
import sys
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from baselines.recbole.catalogue import ENTRIES as RECBOLE
from bench.errors import UsageError, unknown_name
from bench.workspace import builtin_presets

RECBOLE_PREFIX = "recbole:"
Family = Literal["general", "multimedia", "diffusion", "target", "third-party", "recbole"]


@dataclass(frozen=True)
class ModelSpec:
    """One model of the registry.

    Attributes:
        name: what the user writes.
        reference: import path `module:Class`.
        family: the group it stands in within reports.
        citation: where the model comes from.
        inputs: what it learns from.
        aliases: other names for it.
    """

    name: str
    reference: str
    family: Family
    citation: str
    inputs: Literal["interactions", "interactions + features"] = "interactions"
    aliases: tuple[str, ...] = ()


def _multimedia(name: str, reference: str, citation: str, aliases: tuple[str, ...] = ()) -> ModelSpec:
    return ModelSpec(name, reference, "multimedia", citation, "interactions + features", aliases)


REGISTRY: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec("popularity", "baselines.popularity:Popularity", "general", "train counts", aliases=("pop",)),
        ModelSpec(
            "itemknn",
            "baselines.itemknn:ItemKNN",
            "general",
            "Deshpande & Karypis, TOIS 2004",
            aliases=("item-knn",),
        ),
        ModelSpec("ease", "baselines.ease:EASE", "general", "Steck, WWW 2019"),
        ModelSpec(
            "mf-bpr",
            "baselines.mf_bpr:MFBPR",
            "general",
            "Rendle et al., UAI 2009",
            aliases=("bpr", "bprmf", "mfbpr"),
        ),
        ModelSpec("lightgcn", "baselines.lightgcn:LightGCN", "general", "He et al., SIGIR 2020"),
        ModelSpec("simgcl", "baselines.simgcl:SimGCL", "general", "Yu et al., SIGIR 2022"),
        ModelSpec("diffrec", "baselines.diffrec:DiffRec", "diffusion", "Wang et al., SIGIR 2023"),
        ModelSpec(
            "diffrec-1step",
            "baselines.diffrec_1step:DiffRecOneStep",
            "diffusion",
            "Wang et al., SIGIR 2023, one reverse step",
            aliases=("diffrec-one-step",),
        ),
        ModelSpec(
            "l-diffrec",
            "baselines.l_diffrec:LDiffRec",
            "diffusion",
            "Wang et al., SIGIR 2023",
            aliases=("ldiffrec",),
        ),
        ModelSpec("codigem", "baselines.codigem:CODIGEM", "diffusion", "Walker et al., KSEM 2022"),
        _multimedia(
            "itemknn-cbf",
            "baselines.itemknn_cbf:ItemKNNCBF",
            "Ferrari Dacrema et al., RecSys 2019",
            aliases=("cbf", "item-knn-cbf"),
        ),
        _multimedia("vbpr", "baselines.vbpr:VBPR", "He & McAuley, AAAI 2016"),
        _multimedia("mmgcn", "baselines.mmgcn:MMGCN", "Wei et al., ACM MM 2019"),
        _multimedia("dualgnn", "baselines.dualgnn:DualGNN", "Wang et al., IEEE TMM 2021", aliases=("dual-gnn",)),
        _multimedia("lattice", "baselines.lattice:LATTICE", "Zhang et al., ACM MM 2021"),
        _multimedia("slmrec", "baselines.slmrec:SLMRec", "Tao et al., TMM 2022"),
        _multimedia("bm3", "baselines.bm3:BM3", "Zhou et al., WWW 2023"),
        _multimedia("freedom", "baselines.freedom:FREEDOM", "Zhou & Shen, ACM MM 2023"),
        _multimedia("mmssl", "baselines.mmssl:MMSSL", "Wei et al., WWW 2023"),
        _multimedia("diffmm", "baselines.diffmm:DiffMM", "Jiang et al., ACM MM 2024"),
        _multimedia("mcdrec-bm3", "baselines.mcdrec:MCDRecBM3", "Ma et al., WWW 2024 Companion", aliases=("mcdrec",)),
        _multimedia("mcdrec-freedom", "baselines.mcdrec:MCDRecFREEDOM", "Ma et al., WWW 2024 Companion"),
        _multimedia("mgcn", "baselines.mgcn:MGCN", "Yu et al., ACM MM 2023"),
        ModelSpec(
            "ld4mrec",
            "ld4mrec.model:LD4MRec",
            "target",
            "Zhu et al., arXiv 2309.15363v2",
            inputs="interactions + features",
        ),
    )
}


@dataclass(frozen=True)
class Hyperparameter:
    """One keyword-only parameter of a model's constructor.

    Attributes:
        name: as in the constructor.
        annotation: its type with its range.
        default: the value used when neither preset nor user gives one.
    """

    name: str
    annotation: Any
    default: Any

    @property
    def type_text(self) -> str:
        """The type and range in words a user can act on."""
        schema = TypeAdapter(self.annotation).json_schema()
        return _describe(schema)

    def validate(self, value: Any, where: str) -> Any:
        """Return `value` as the model will get it.

        Raises:
            UsageError: the type or range does not fit, with both stated.
        """
        if isinstance(value, list):
            value = tuple(value)
        try:
            return TypeAdapter(self.annotation).validate_python(value, strict=True)
        except ValidationError as error:
            reason = "; ".join(detail["msg"] for detail in error.errors())
            raise UsageError(
                f"{where}: expected {self.type_text}, found {value!r} ({reason}). Its default is {self.default!r}."
            ) from error


def _describe(schema: Mapping[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(map(repr, schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "array":
        return f"a list of {_describe(schema['items'])}, such as [200, 600]"
    words = {"integer": "an integer", "number": "a number", "boolean": "true or false", "string": "text"}
    text = words.get(str(schema.get("type")), "a value")
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
    return f"{text} {' and '.join(limits)}" if limits else text


def find_model(name: str) -> ModelSpec:
    """Return the model of this name or alias, of RecBole as `recbole:Class`, or of the import path `module:Class`.

    Raises:
        UsageError: no such model, or a path that is not one.
    """
    wanted = name.strip()
    if wanted.lower().startswith(RECBOLE_PREFIX):
        return _recbole_model(wanted[len(RECBOLE_PREFIX) :])
    if ":" in wanted:
        return ModelSpec(wanted, wanted, "third-party", "given by the user", inputs="interactions + features")
    for spec in REGISTRY.values():
        if wanted.lower() in (spec.name, *spec.aliases):
            return spec
    raise unknown_name("model", wanted, REGISTRY, "A model of your own is named by import path, module:Class.")


def _recbole_model(name: str) -> ModelSpec:
    """Return the general recommender of RecBole of this name, whatever its case."""
    names = {known.lower(): known for known in RECBOLE}
    if name.lower() not in names:
        near = [names[match] for match in get_close_matches(name.lower(), names, cutoff=0.5)]
        suggestion = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(
            f"RecBole has no general recommender '{name}'.{suggestion} bench models --recbole lists all {len(names)}."
        )
    found = names[name.lower()]
    citation = "RecBole 1.2.1, Zhao et al., CIKM 2021"
    return ModelSpec(f"{RECBOLE_PREFIX}{found}", f"baselines.recbole:{found}", "recbole", citation)


def load_class(spec: ModelSpec) -> type:
    """Import a model's class and check that it keeps the contract.

    A `module:Class` is looked for in the working folder too.

    Raises:
        UsageError: the module or class cannot be found, a package that the class needs is not installed, or the class
            does not keep the contract.
    """
    from bench.training.protocol import check_recommender

    module_name, _, class_name = spec.reference.partition(":")
    here = str(Path.cwd())
    if spec.family == "third-party" and here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"Model '{spec.name}': module {error.name!r} cannot be imported. Expected module:Class with the module in "
            f"the working folder ({here}) or installed."
        ) from error
    try:
        cls = getattr(module, class_name, None)
    except ImportError as error:
        raise UsageError(f"Model '{spec.name}': {error}") from error
    if cls is None:
        classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
        raise unknown_name(f"class of module {module_name}", class_name, classes)
    check_recommender(cls, spec.name)
    return typing.cast(type, cls)


def hyperparameters_of(cls: type) -> dict[str, Hyperparameter]:
    """Read the hyper-parameters from a model's constructor: its keyword-only parameters.

    Raises:
        UsageError: a parameter lacks its annotation or default, or the two positional parameters are missing.
    """
    parameters = list(inspect.signature(cls).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) != 2:
        raise UsageError(
            f"{cls.__name__}(interactions, features, *, ...) must take exactly two positional parameters, found "
            f"{[p.name for p in positional]}. Hyper-parameters are keyword-only."
        )
    hints = typing.get_type_hints(cls.__init__, include_extras=True)  # type: ignore[misc]
    found = {}
    for parameter in parameters:
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        if parameter.name not in hints or parameter.default is parameter.empty:
            raise UsageError(
                f"{cls.__name__}: hyper-parameter '{parameter.name}' needs a type annotation and a default value."
            )
        found[parameter.name] = Hyperparameter(parameter.name, hints[parameter.name], parameter.default)
    return found


def parse_setting(text: str) -> tuple[str, str, Any]:
    """Split `model.name=value` into its three parts; the value is read as TOML, bare words as text.

    Raises:
        UsageError: the text has another form.
    """
    left, equals, right = text.partition("=")
    model, dot, name = left.strip().rpartition(".")
    if not (equals and dot and model and name):
        raise UsageError(f"--set expects model.hyperparameter=value, such as lightgcn.n_layers=2; found '{text}'.")
    try:
        value = tomllib.loads(f"value = {right.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = right.strip()
    return model, name, value


def resolve_hyperparameters(spec: ModelSpec, preset: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return every hyper-parameter of a model with its value: default, then preset, then the user's.

    A class may name in its attribute `refused` what other programs set and it does not, each with the reason.

    Raises:
        UsageError: an unknown name or a value of the wrong type or range.
    """
    cls = load_class(spec)
    known = hyperparameters_of(cls)
    refused: Mapping[str, str] = getattr(cls, "refused", {})
    values = {name: parameter.default for name, parameter in known.items()}
    for source, given in (("preset", preset), ("--set", overrides)):
        for name, value in given.items():
            if name not in known and name in refused:
                raise UsageError(f"{source} {spec.name}.{name} cannot be set here: {refused[name]}.")
            if name not in known:
                raise unknown_name(f"hyper-parameter of {spec.name} ({source})", name, known)
            values[name] = known[name].validate(value, f"{source} {spec.name}.{name}")
    return values


def load_presets(dataset: str, results: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return the tuned hyper-parameters for a dataset, by model; empty where none were tuned.

    Args:
        dataset: its name.
        results: folder whose `<dataset>/presets.toml`, as `bench tune` writes it, goes before what ships.

    Raises:
        UsageError: a preset file is not valid.
    """
    paths = [builtin_presets() / f"{dataset}.toml"]
    if results is not None:
        paths.append(results / dataset / "presets.toml")
    presets: dict[str, dict[str, Any]] = {}
    for path in paths:
        if path.is_file():
            try:
                presets |= tomllib.loads(path.read_text(encoding="utf-8"))
            except tomllib.TOMLDecodeError as error:
                raise UsageError(f"The presets {path} are not valid TOML: {error}. Repair or delete them.") from error
    return presets
