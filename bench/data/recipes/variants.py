"""Other preparations of a dataset, under names of their own: `microlens@5core`, `hm@nocore+visual=none`.

What a variant changes stands in its name, so that the name alone finds it again, and so that it can stand beside the
recipe's own form in one report.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bench.data.recipes.modalities import Encoder
from bench.data.recipes.recipe import Recipe
from bench.data.recipes.sources import AnySource, Expected
from bench.data.recipes.steps import AvailableStep, CoreStep, Step
from bench.errors import RecipeError, UsageError, unknown_name

NONE = "none"
CORE = "a number such as 5, user=5,item=10, or none"


@dataclass(frozen=True)
class Cores:
    """Fewest interactions per user and per item; 1 does not filter, and (1, 1) is no filter at all."""

    user: int
    item: int

    @classmethod
    def parse(cls, text: str) -> "Cores":
        """Read what `--core` takes.

        Raises:
            UsageError: it is none of the three forms.
        """
        if text.strip().lower() == NONE:
            return cls(1, 1)
        if re.fullmatch(r"\s*[1-9][0-9]*\s*", text):
            return cls(int(text), int(text))
        found = dict(re.findall(r"(?:^|,)\s*(user|item)\s*=\s*([1-9][0-9]*)\s*(?=,|$)", text))
        if not found or len(found) != text.count(",") + 1:
            raise UsageError(f"--core {text}: expected {CORE}.")
        return cls(int(found.get("user", 1)), int(found.get("item", 1)))

    @property
    def label(self) -> str:
        """The part of a dataset's name that stands for it."""
        if self.user == self.item:
            return "nocore" if self.user == 1 else f"{self.user}core"
        return f"user{self.user}item{self.item}core"

    @property
    def option(self) -> str:
        """The words of `--core` for it."""
        if self.user == self.item:
            return NONE if self.user == 1 else str(self.user)
        return f"user={self.user},item={self.item}"


@dataclass(frozen=True)
class Variant:
    """What is different from the recipe.

    Attributes:
        cores: in place of every step of kind "core"; None leaves them.
        features: modality -> name of an alternative, or "none" to leave the modality out.
        source: name of the source to use; None leaves the choice.
    """

    cores: Cores | None = None
    features: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None

    @classmethod
    def parse(cls, suffix: str) -> "Variant":
        """Read what stands behind the `@` of a dataset's name.

        Raises:
            UsageError: a part of it has no meaning.
        """
        cores, features, source = None, {}, None
        for part in suffix.split("+"):
            core = re.fullmatch(r"(?:([1-9][0-9]*)|user([1-9][0-9]*)item([1-9][0-9]*)|no)core", part)
            if core:
                both, user, item = core.groups()
                cores = Cores(int(both or user or 1), int(both or item or 1))
            elif re.fullmatch(r"[a-z][a-z0-9_]*=[a-z0-9][a-z0-9._-]*", part):
                modality, _, name = part.partition("=")
                features[modality] = name
            elif re.fullmatch(r"[a-z0-9][a-z0-9._-]*", part):
                source = part
            else:
                raise UsageError(
                    f"The part '{part}' behind the @ of a dataset's name means nothing. Known are 5core, "
                    f"user5item10core, nocore, MODALITY=ALTERNATIVE and the name of a source."
                )
        return cls(cores, features, source)

    def apply(self, recipe: Recipe) -> Recipe:
        """Return the recipe of the variant, under its own name; the recipe itself where nothing is different.

        Raises:
            UsageError: the recipe has no such source, modality or alternative.
            RecipeError: what comes out does not fit together.
        """
        parts: list[str] = []
        changed = recipe
        if self.source is not None:
            changed, own = _with_source(changed, self.source)
            parts += [self.source] if own else []
        if self.cores is not None:
            before = changed
            changed = _with_cores(changed, self.cores)
            parts += [self.cores.label] if changed.hash != before.hash else []
        for modality, name in sorted(self.features.items()):
            before = changed
            changed = _with_feature(changed, modality, name)
            parts += [f"{modality}={name}"] if changed.hash != before.hash else []
        if not parts:
            return changed
        return changed.model_copy(update={"name": f"{recipe.name}@{'+'.join(parts)}", "aliases": ()})


def features_from_options(options: Iterable[str]) -> dict[str, str]:
    """Read what `--feature` takes, MODALITY=ALTERNATIVE, as often as it is given.

    Raises:
        UsageError: one is not of that form, or names a modality twice.
    """
    chosen: dict[str, str] = {}
    for option in options:
        modality, equals, name = option.partition("=")
        if not (equals and modality and name) or modality in chosen:
            raise UsageError(
                f"--feature {option}: expected MODALITY=ALTERNATIVE, once for each modality, such as visual=none."
            )
        chosen[modality] = name
    return chosen


def _with_source(recipe: Recipe, name: str) -> tuple[Recipe, bool]:
    """Return the recipe with that source only, and whether it makes a dataset of its own name."""
    chosen = [source for source in recipe.sources if source.name == name]
    if not chosen:
        hint = "A k-core in a dataset's name is written 5core, user5item10core or nocore."
        raise unknown_name(f"source of {recipe.name}", name, [source.name for source in recipe.sources], hint)
    if not chosen[0].own_name:
        return recipe, False
    return recipe.model_copy(update={"sources": tuple(chosen)}), True


def _with_cores(recipe: Recipe, cores: Cores) -> Recipe:
    sources = tuple(
        source if source.steps is None else source.model_copy(update={"steps": _cored(source.steps, cores)})
        for source in recipe.sources
    )
    steps = _cored(recipe.steps, cores)
    if steps == recipe.steps and sources == recipe.sources:
        return recipe
    # Counts of the default k-core no longer hold; those of known cores do.
    expected = recipe.expected.model_copy(update={"prepared": None})
    return recipe.model_copy(update={"steps": steps, "sources": sources, "expected": expected})


def _cored(steps: tuple[Step, ...], cores: Cores) -> tuple[Step, ...]:
    """Put the cores in place of every step of kind "core", or behind the last step if there is none."""
    core = CoreStep(kind="core", user_core=cores.user, item_core=cores.item)
    if any(isinstance(step, CoreStep) for step in steps):
        kept = [step if not isinstance(step, CoreStep) or step.cores == core.cores else core for step in steps]
    else:
        kept = [*steps, core]
    return tuple(step for step in kept if not isinstance(step, CoreStep) or step.cores != (1, 1))


def _with_feature(recipe: Recipe, modality: str, name: str) -> Recipe:
    """Make one modality another way, or leave it out, in the recipe and for the sources that say their own."""
    alternatives = recipe.alternatives.get(modality, {})
    known = {*recipe.features, *recipe.alternatives, *(key for each in recipe.sources for key in each.features or {})}
    if modality not in known:
        raise unknown_name(f"modality of {recipe.name}", modality, known)
    if name != NONE and name not in alternatives:
        raise unknown_name(f"alternative for {recipe.name}'s modality {modality}", name, [*alternatives, NONE])
    feature = None if name == NONE else alternatives[name]
    changes = {"features": _featured(recipe.features, modality, feature), "expected": recipe.expected}
    changes["steps"] = recipe.steps if feature else _without(recipe.steps, modality)
    if any(isinstance(step, AvailableStep) and modality in step.modalities for step in recipe.steps):
        # Other pictures or texts are there for other items.
        changes["expected"] = Expected(raw=recipe.expected.raw, published=recipe.expected.published)
    changes["sources"] = _sources_with(recipe, modality, feature)
    try:
        return recipe.with_changes(changes)
    except ValueError as error:
        raise RecipeError(f"{recipe.name} with {modality}={name} does not fit together: {error}.") from error


def _sources_with(recipe: Recipe, modality: str, feature: Encoder | None) -> tuple[AnySource, ...]:
    """Return the sources that can make the modality so; one with features of its own can only leave it out."""
    if feature is not None:
        able = tuple(source for source in recipe.sources if source.features is None)
        if not able:
            named = ", ".join(source.name for source in recipe.sources)
            raise UsageError(
                f"The source {named} of {recipe.name} has features of its own, and no alternatives to them."
            )
        return able
    return tuple(
        source
        if source.features is None
        else source.model_copy(update={"features": _featured(source.features, modality, None)})
        for source in recipe.sources
    )


def _featured(features: Mapping[str, Encoder], modality: str, feature: Encoder | None) -> dict[str, Encoder]:
    others = {key: value for key, value in features.items() if key != modality}
    return others if feature is None else {**others, modality: feature}


def _without(steps: tuple[Step, ...], modality: str) -> tuple[Step, ...]:
    """Take a modality out of the steps of kind "available"."""
    kept: list[Step] = []
    for step in steps:
        if isinstance(step, AvailableStep):
            rest = tuple(name for name in step.modalities if name != modality)
            kept += [step.model_copy(update={"modalities": rest})] if rest else []
        else:
            kept.append(step)
    return tuple(kept)
