# Stands in for postgres:16: its user, PGDATA, and what POSTGRES_USER, POSTGRES_DB and POSTGRES_PASSWORD do at the first start.
FROM churn-test/debian
RUN groupadd --gid 999 postgres && useradd --uid 999 --gid 999 --home-dir /var/lib/postgresql postgres \
    && apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/* \
    && ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ \
    && install -d -o postgres -g postgres -m 700 /var/lib/postgresql/data
RUN printf '%s\n' '#!/bin/sh -e' \
    'if [ ! -s "$PGDATA/PG_VERSION" ]; then' \
    '    echo "$POSTGRES_PASSWORD" > /tmp/password' \
    '    initdb --auth-host=scram-sha-256 --auth-local=trust --username="$POSTGRES_USER" --pwfile=/tmp/password -D "$PGDATA"' \
    '    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"' \
    '    echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D "$PGDATA" postgres' \
    'fi' \
    'exec postgres -D "$PGDATA" -c "listen_addresses=*" -c unix_socket_directories=/tmp' > /usr/local/bin/docker-entrypoint.sh \
    && chmod 755 /usr/local/bin/docker-entrypoint.sh
ENV PGDATA=/var/lib/postgresql/data
VOLUME /var/lib/postgresql/data
USER postgres
STOPSIGNAL SIGINT
CMD ["docker-entrypoint.sh"]
