"""deploy/kubernetes against the schemas of Kubernetes, without a cluster or kubectl.

`python -m churn_assets_tests.containers.kubernetes`, which `make lint` runs, prints a line for each problem and ends with 1 if
there is one.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from kubernetes_validate import SchemaNotFoundError, ValidationError, validate

from churn_assets_tests.repository import REPOSITORY

FOLDER = REPOSITORY / "deploy/kubernetes"
VERSIONS = ("1.30", "1.37")  # the oldest and the newest that the manifests are for


def kustomization() -> dict[str, Any]:
    """What kustomization.yaml says."""
    return yaml.safe_load((FOLDER / "kustomization.yaml").read_text())


def settings_file() -> dict[str, str]:
    """The variables of settings.env, as kustomize reads them: a line that begins with # is none."""
    lines = (FOLDER / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def manifests() -> Iterator[tuple[Path, dict[str, Any]]]:
    """File and document of each of the kustomization's resources, and of the ConfigMap that it generates."""
    for name in kustomization()["resources"]:
        for document in yaml.safe_load_all((FOLDER / name).read_text()):
            yield FOLDER / name, document
    data = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "churn"}, "data": settings_file()}
    yield FOLDER / "settings.env", data


def problems(file: Path, document: dict[str, Any]) -> list[str]:
    """A line for each version of Kubernetes whose schema the document does not fit: where it is wrong, and what to do."""
    found: list[str] = []
    for version in VERSIONS:
        what = f"{file.name}: {document.get('kind')} for Kubernetes {version}"
        try:
            validate(document, version, strict=True)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.absolute_path) or "the document"
            found.append(
                f"{what}: {where}: {error.message}; correct it as in `kubectl explain {document['kind'].lower()}`"
            )
        except SchemaNotFoundError:
            found.append(f"{what}: there is no such kind in {document['apiVersion']}; correct kind or apiVersion")
        except KeyError as error:
            found.append(f"{what}: {error} is missing; every manifest has apiVersion and kind")
    return found


def main() -> int:
    """Print all problems."""
    lines = [line for file, document in manifests() for line in problems(file, document)]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
