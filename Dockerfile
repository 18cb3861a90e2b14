# One image for web, workers, scheduler and commands; the target `sandbox` adds the shop and the management system
# to try it with. Wheels bring libpq, libcurl and OpenSSL with them, so that nothing is installed from Debian.

FROM python:3.11.14-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/venv/bin:$PATH

FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_INPUT=1
WORKDIR /build
COPY requirements/build.txt requirements/image.txt requirements/
RUN python -m venv --without-pip /venv \
    && pip install --require-hashes --requirement requirements/build.txt \
    && pip --python /venv/bin/python install --require-hashes --only-binary :all: --requirement requirements/image.txt
COPY pyproject.toml README.md LICENSE celeryconfig.py ./
COPY integrator integrator
COPY tasks tasks
COPY web web
RUN pip wheel --no-deps --no-build-isolation --no-index --wheel-dir dist . \
    && pip --python /venv/bin/python install --no-deps --no-index dist/*.whl \
    && python -m compileall -q --invalidation-mode unchecked-hash /venv

FROM base AS app
RUN groupadd --system --gid 10001 integrator \
    && useradd --system --uid 10001 --gid integrator --home-dir /nonexistent --shell /usr/sbin/nologin integrator
COPY --from=build /venv /venv
WORKDIR /app
USER 10001:10001
EXPOSE 8000 9100
CMD ["gunicorn", "-c", "python:web.server"]

FROM app AS sandbox
COPY sandbox sandbox
COPY infra/compose/sandbox-tenants.yaml sandbox-tenants.yaml

# HTTPS in front of it. The program's file capability goes with the copy: it listens above 1024 and needs none.
FROM caddy:2.11.7-alpine AS https
RUN cp /usr/bin/caddy /usr/bin/caddy.copy \
    && mv /usr/bin/caddy.copy /usr/bin/caddy \
    && install -d -o 10001 -g 10001 -m 700 /certificates
ENV XDG_DATA_HOME=/certificates \
    XDG_CONFIG_HOME=/tmp
COPY infra/compose/Caddyfile /etc/caddy/Caddyfile
USER 10001:10001

# Last, so that it is what `docker build .` makes.
FROM app
