"""`python -m churn_assets.cli` is `churn`, for processes that the project starts itself."""

from churn_assets.cli.app import main

main()
