"""Which alias a validated model gets in the registry, and why."""

from dataclasses import dataclass, field

from steps.common.model.find import FoundModel
from steps.common.quality.comparison import Comparison, Result, find_worst

CHAMPION = "champion"

PREVIOUS = "previous"

CHALLENGER = "challenger"


@dataclass(frozen=True)
class Validated:
    """What a validation says of a model, as far as its version in the registry goes."""

    # Why the gate failed; None where it passed.
    failure: str | None = None
    # By "champion" and "baseline": the models it was compared with, and the results.
    compared: dict[str, FoundModel] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    # What speaks against it beside the comparisons.
    objections: tuple[str, ...] = ()
    # False only proposes a model that would be champion.
    promote: bool = True

    @property
    def result(self) -> Result | None:
        """The result that speaks most against the model; None where it was compared with none."""
        return find_worst(self.comparisons)


@dataclass(frozen=True)
class Decision:
    """The alias of a version, None where the gate failed, and why."""

    alias: str | None
    reason: str
    # Whether only `promote: false` keeps it from being champion.
    proposed: bool = False


def decide(validated: Validated, champion: str | None, objections: list[str]) -> Decision:
    """Whether a model becomes champion: the gate passed, and it is better than or equal to all it was compared with.

    Args:
        champion: the version that is champion now. objections: more of them, from the registry.
    """
    stays = f"version {champion} stays {CHAMPION}" if champion else f"there is no {CHAMPION} yet"
    if validated.failure is not None:
        return Decision(None, f"the gate failed, {validated.failure}; {stays}")
    objections = [*validated.objections, *objections]
    said = "; ".join([*describe_comparisons(validated), *objections])
    if objections or validated.result in (Result.WORSE, Result.UNDECIDED):
        return Decision(CHALLENGER, f"{said}; {stays}")
    reason = said or f"the gate passed, and there was no {CHAMPION} yet"
    if not validated.promote:
        return Decision(CHALLENGER, f"proposed, {reason}; {stays}", proposed=True)
    return Decision(CHAMPION, reason)


def describe_comparisons(validated: Validated) -> list[str]:
    """Each comparison in words: the result, with what, and the numbers behind it."""
    return [
        comparison.describe(_name(role, validated.compared.get(role)))
        for role, comparison in validated.comparisons.items()
    ]


def _name(role: str, found: FoundModel | None) -> str:
    if found is None:
        return f"the {role}"
    version = f"version {found.registered.rpartition('/')[2]}" if found.registered else found.uri
    return f"the {role} {version}"
