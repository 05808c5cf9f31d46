"""`python -m churn_assets.cli` runs `churn`, for processes that the project itself starts."""

from churn_assets.cli.app import main

main()
