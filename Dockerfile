# One image for every process of docker-compose.yml that is ours.
FROM python:3.12.12-slim-bookworm AS base
# Certificates of a company's proxy, in PEM; for downloads of the build, and for what runs.
ARG CA_BUNDLE=""
RUN if [ -n "$CA_BUNDLE" ]; then \
        printf '%s\n' "$CA_BUNDLE" > /usr/local/share/ca-certificates/company.crt && update-ca-certificates; fi
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
WORKDIR /app

FROM base AS build
# More of the project's extras, such as EXTRAS="--extra shared" for a lake on PostgreSQL and S3.
ARG EXTRAS=""
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils
RUN PIP_CERT=$SSL_CERT_FILE pip install --no-cache-dir uv==0.13.9
COPY pyproject.toml uv.lock README.md LICENSE .env.example dagster.yaml workspace.yaml ./
# The project itself is installed as a link to /app, whose code comes later: a change of code installs nothing again.
# Without a package to point at, the build would leave out the link.
# Polars only reads Avro in bulk (without it, message by message), and the compiled sqlglot is only faster when definitions load.
RUN mkdir churn_assets && touch churn_assets/__init__.py \
    && UV_PYTHON_DOWNLOADS=never uv sync --frozen --no-dev --group compose $EXTRAS --no-cache \
        --no-install-package polars --no-install-package polars-runtime-32 --no-install-package sqlglotc
# What is not used: notebooks, other languages, other services of AWS than those of S3, and what only those need who develop or debug
# the large packages (tests, headers, maps, symbols, Arrow's RPC).
RUN rm -r .venv/share && cd .venv/lib/python3*/site-packages \
    && find babel/locale-data -name '*.dat' ! -name 'en*' ! -name root.dat -delete \
    && find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name 's3*' ! -name 'ss*' ! -name sts -exec rm -r {} + \
    && find matplotlib networkx numpy onnx pandas pyarrow scipy sklearn -depth -type d \( -name tests -o -name include \) \
        -exec rm -r {} + \
    && find . -type f \( -name '*.map' -o -name '*.pyi' -o -name '*.pxd' -o -name 'libarrow_flight.*' \
        -o -name 'libarrow_python_flight.*' -o -name '_flight.*.so' \) -delete \
    && find pyarrow tantivy -name '*.so*' -exec strip --strip-unneeded {} +

FROM base
# A new volume takes the owner of the folder that it is mounted on, so /state has to be there and be the user's.
RUN useradd --uid 10001 --create-home churn && install --directory --owner=churn --group=churn /state
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1
COPY --from=build /app/.venv .venv
COPY churn_assets churn_assets
COPY dagster_warm dagster_warm
COPY dbt dbt
COPY marketing marketing
COPY sql sql
COPY docker docker
# Bytecode of what is used, and of nothing else, because nobody may write it later.
RUN CHURN_HOME=/tmp/home python docker/imports.py
USER 10001
