# One image for every process of docker-compose.yml that is ours.
FROM python:3.12.12-slim-bookworm AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /app
COPY pyproject.toml uv.lock README.md LICENSE dagster.yaml workspace.yaml ./
# The project itself is installed as a link to /app, whose code comes later: a change of code installs nothing again.
# Without a package to point at, the build would leave out the link.
RUN mkdir churn_assets && touch churn_assets/__init__.py \
    && UV_PYTHON_DOWNLOADS=never uv sync --frozen --no-dev --group compose --compile-bytecode --no-cache

FROM python:3.12.12-slim-bookworm
# A new volume takes the owner of the folder that it is mounted on, so /state has to be there and be the user's.
RUN useradd --uid 10001 --create-home churn && install --directory --owner=churn --group=churn /state
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /app
COPY --from=build /app/.venv .venv
COPY churn_assets churn_assets
COPY dagster_warm dagster_warm
COPY dbt dbt
COPY marketing marketing
COPY sql sql
COPY docker docker
USER 10001
