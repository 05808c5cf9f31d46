"""A process that has the packages of a function or procedure of Snowflake's and nothing else, as it has there."""

from collections.abc import Iterable
from importlib.metadata import packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# By the name of a module: the distributions that it is from.
OWNERS = {name: {canonicalize_name(owner) for owner in owners} for name, owners in packages_distributions().items()}
# The beginning of the program. Whatever is not in the list of modules, its first argument, is missing.
ONLY_PACKAGES = """
import json, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from pathlib import Path

there = {"churn_assets", *sys.stdlib_module_names, *json.loads(sys.argv[1])}
imported = set()

class Missing:
    find_distributions = PathFinder.find_distributions  # a model's card says with which versions it was made

    @staticmethod
    def find_spec(name, path=None, target=None):
        imported.add(name.partition(".")[0])
        if name.partition(".")[0] not in there and not name.startswith("_sysconfigdata_"):
            return None
        return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Missing]
"""


def importable(packages: Iterable[str]) -> list[str]:
    """The modules that can be imported where these packages and their dependencies are installed."""
    there = with_dependencies(packages)
    return [name for name, owners in OWNERS.items() if owners & there]


def with_dependencies(names: Iterable[str]) -> set[str]:
    """The distributions of these names and all that they require here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found.add(name)
            needed = [Requirement(text) for text in requires(name) or []]
            waiting += [one.name for one in needed if not one.marker or one.marker.evaluate({"extra": ""})]
    return found
