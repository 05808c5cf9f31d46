"""The groups of the graph. Each asset takes its group, owner and kinds from here and states only what is its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

DATA_ENGINEERING, DATA_SCIENCE, MARKETING = "team:data-engineering", "team:data-science", "team:marketing"


class GroupSpec(TypedDict):
    """The arguments of `dg.asset` and `dg.AssetSpec` that an asset takes from its group."""

    group_name: str
    owners: Sequence[str]
    kinds: set[str]


@dataclass(frozen=True)
class AssetGroup:
    """A group of assets in Dagster's UI and the team that owns them."""

    name: str
    owner: str

    def spec(self, *kinds: str) -> GroupSpec:
        """The arguments for an asset of the group. `links.linked` replaces the kind `ducklake` where the tables are elsewhere."""
        return {"group_name": self.name, "owners": [self.owner], "kinds": set(kinds)}


LEDGERS = AssetGroup("ledgers", DATA_ENGINEERING)
MODEL = AssetGroup("model", DATA_SCIENCE)
INTERVENTIONS = AssetGroup("interventions", MARKETING)
SERVING = AssetGroup("serving", DATA_ENGINEERING)
MAINTENANCE = AssetGroup("maintenance", DATA_ENGINEERING)
