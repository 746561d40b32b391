# One image for every command: `serve` unless told otherwise, such as `migrate` or `keys`.
FROM python:3.13-slim

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    STORE_BACKEND=postgres \
    DATA_DIR=/var/lib/escrowgrid \
    HOST=0.0.0.0 \
    PORT=8000

RUN useradd --system --uid 10001 --home-dir /var/lib/escrowgrid --create-home escrowgrid
WORKDIR /opt/escrowgrid

# What changes seldom comes first, so that it is not installed again with every change of ours.
COPY requirements.lock ./
RUN pip install --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md ./
COPY app app
COPY migrations migrations
COPY contracts contracts
RUN pip install --no-deps --no-build-isolation --editable .

USER escrowgrid
VOLUME /var/lib/escrowgrid
EXPOSE 8000
STOPSIGNAL SIGINT

HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as web; web.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/ready', timeout=4)"]

ENTRYPOINT ["escrowgrid"]
CMD ["serve"]
