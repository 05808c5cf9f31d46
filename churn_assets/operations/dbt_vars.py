"""`make dbt-vars`: write the defaults of `rules` into the variables of the dbt project."""

import yaml

from churn_assets.operations.dbt import DBT_PROJECT
from churn_assets.rules import Rules, dbt_vars


def main() -> None:
    """Replace everything from `vars:` to the end of the file."""
    file = DBT_PROJECT / "dbt_project.yml"
    kept = file.read_text().split("\nvars:")[0]
    file.write_text(kept + "\n" + yaml.safe_dump({"vars": dbt_vars(Rules())}, sort_keys=False))


if __name__ == "__main__":
    main()
