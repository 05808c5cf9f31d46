# Stands in for python:3.12.12-slim-bookworm, with Debian's Python.
FROM churn-test/debian
RUN ln -s python3 /usr/bin/python && rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
CMD ["python3"]
