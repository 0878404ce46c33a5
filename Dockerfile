# syntax=docker/dockerfile:1
# Two targets: `cpu` (the default, last) and `gpu`. Models are not in the image: mount them at /models, or build on it.
#   docker build -t trimtab .
#   docker build -t trimtab:gpu --target gpu .
# Versions come from constraints.txt. Both targets run as uid 10001, with a read-only root and a writable /tmp.

# What both environments are built with; nothing of these stages but /opt/trimtab reaches an image.
FROM python:3.11.14-slim-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# No pip in the environment itself: it is installed into from outside.
RUN python -m venv --without-pip /opt/trimtab
COPY constraints.txt ./

# torch alone from its own index and without dependencies, so that no other package can come from there.
FROM build AS build-cpu
RUN python -m pip --python /opt/trimtab install --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0
COPY pyproject.toml README.md ./
COPY variants variants
COPY budgets budgets
COPY deployments deployments
COPY server server
COPY protos protos
COPY examples examples
RUN python -m pip --python /opt/trimtab install --constraint constraints.txt dumb-init==1.2.5.post1 .

# PyPI's torch is the CUDA build and brings the CUDA libraries as wheels; TensorRT's are on its vendor's index.
FROM build AS build-gpu
ARG TENSORRT_VERSION=11.4.0.106
RUN python -m pip --python /opt/trimtab install --constraint constraints.txt torch==2.13.0 \
    && python -m pip --python /opt/trimtab install --constraint constraints.txt \
        --extra-index-url https://pypi.nvidia.com "tensorrt==${TENSORRT_VERSION}"
COPY pyproject.toml README.md ./
COPY variants variants
COPY budgets budgets
COPY deployments deployments
COPY server server
COPY protos protos
COPY examples examples
RUN python -m pip --python /opt/trimtab install --constraint constraints.txt dumb-init==1.2.5.post1 .

# Everything of the GPU image that does not depend on trimtab's sources. The interpreter is the one that the environment
# was built with: the base has none. Its shared libraries are those of the base's own packages.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04 AS runtime-gpu
# hadolint ignore=DL3008  # the distribution removes a version when it mends it, so a pinned one would stop building
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates libbz2-1.0 libexpat1 libffi8 liblzma5 libsqlite3-0 libssl3t64 libuuid1 zlib1g \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/python3.11 /usr/local/bin/python3.11
COPY --from=build /usr/local/lib/libpython3.11.so.1.0 /usr/local/lib/libpython3.11.so.1.0
COPY --from=build /usr/local/lib/python3.11 /usr/local/lib/python3.11
RUN ldconfig \
    && ln -s python3.11 /usr/local/bin/python3 \
    && ln -s python3.11 /usr/local/bin/python \
    && rm -rf /usr/local/lib/python3.11/ensurepip /usr/local/lib/python3.11/site-packages/*

FROM runtime-gpu AS gpu
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="trimtab" \
      org.opencontainers.image.description="A multi-model inference server with resource budgeting (GPU)" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
RUN groupadd --gid 10001 trimtab \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin trimtab \
    && install --directory --owner 10001 --group 10001 /models /etc/trimtab /var/lib/trimtab
COPY --from=build-gpu /opt/trimtab /opt/trimtab
ENV PATH=/opt/trimtab/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /var/lib/trimtab
USER 10001:10001
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=6 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/health/live', timeout=4)"]
# A parent that reaps: Ray's processes leave orphans. Only the server gets signals, and stops the others in order.
ENTRYPOINT ["dumb-init", "--single-child", "--", "trimtab"]
CMD ["serve", "--config", "/etc/trimtab/trimtab.yaml"]

FROM python:3.11.14-slim-bookworm AS cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="trimtab" \
      org.opencontainers.image.description="A multi-model inference server with resource budgeting" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
RUN groupadd --gid 10001 trimtab \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin trimtab \
    && install --directory --owner 10001 --group 10001 /models /etc/trimtab /var/lib/trimtab \
    && python -m pip uninstall --yes --root-user-action=ignore pip setuptools wheel \
    && rm -rf /usr/local/lib/python3.11/ensurepip
COPY --from=build-cpu /opt/trimtab /opt/trimtab
ENV PATH=/opt/trimtab/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 RAY_USAGE_STATS_ENABLED=0
WORKDIR /var/lib/trimtab
USER 10001:10001
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=6 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/health/live', timeout=4)"]
ENTRYPOINT ["dumb-init", "--single-child", "--", "trimtab"]
CMD ["serve", "--config", "/etc/trimtab/trimtab.yaml"]
