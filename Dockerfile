# syntax=docker/dockerfile:1
# Two targets: `cpu` (the default, last) and `gpu`. Models are not in the image: mount them at /models, or build on it.
#   docker build -t trimtab .
#   docker build -t trimtab:gpu --target gpu .
# Python packages are those of locks/ (`make lock`), each checked against its hash; nothing is compiled. Behind a mirror:
#   --build-arg PIP_INDEX_URL=… --build-arg TORCH_INDEX=…
# Both targets run as uid 10001, with a read-only root and a writable /tmp.

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04

# What both environments are built with; nothing of these stages but /opt/trimtab reaches an image. Two environments: pip
# and the build backend live in /opt/build, and install into /opt/trimtab from outside.
FROM ${PYTHON_IMAGE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
WORKDIR /src
RUN python -m venv /opt/build && python -m venv --without-pip /opt/trimtab
COPY locks/build.lock locks/
RUN /opt/build/bin/pip install --no-deps --require-hashes --requirement locks/build.lock

FROM build AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY variants variants
COPY budgets budgets
COPY deployments deployments
COPY server server
COPY protos protos
COPY examples examples
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

# torch without CUDA is on an index of its own. With hashes it does not matter which index a file comes from.
FROM build AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY locks/cpu.lock locks/
RUN /opt/build/bin/pip --python /opt/trimtab install --no-deps --require-hashes --only-binary :all: \
        --extra-index-url "${TORCH_INDEX}" --requirement locks/cpu.lock
COPY --from=wheel /wheels /wheels
RUN /opt/build/bin/pip --python /opt/trimtab install --no-deps --no-index /wheels/*.whl \
    && /opt/build/bin/pip --python /opt/trimtab check

# PyPI's torch is the CUDA build and brings the CUDA libraries as wheels; TensorRT's are on its vendor's index.
FROM build AS build-gpu
ARG TENSORRT_INDEX=https://pypi.nvidia.com
COPY locks/gpu.lock locks/tensorrt.txt locks/
RUN /opt/build/bin/pip --python /opt/trimtab install --no-deps --require-hashes --only-binary :all: \
        --requirement locks/gpu.lock \
    && /opt/build/bin/pip wheel --no-deps --no-build-isolation --only-binary tensorrt-cu13-libs,tensorrt-cu13-bindings \
        --extra-index-url "${TENSORRT_INDEX}" --wheel-dir /wheels --requirement locks/tensorrt.txt
COPY --from=wheel /wheels /wheels
RUN /opt/build/bin/pip --python /opt/trimtab install --no-deps --no-index /wheels/*.whl \
    && /opt/build/bin/pip --python /opt/trimtab check

# Everything of the GPU image that does not depend on trimtab's sources. The interpreter is the one that the environment
# was built with: the base has none. Its shared libraries are those of the base's own packages.
FROM ${CUDA_IMAGE} AS runtime-gpu
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
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=6 \
    CMD ["python", "-m", "server.alive", "/etc/trimtab/trimtab.yaml"]
# A parent that reaps: Ray's processes leave orphans. Only the server gets signals, and stops the others in order.
ENTRYPOINT ["dumb-init", "--single-child", "--", "trimtab"]
CMD ["serve", "--config", "/etc/trimtab/trimtab.yaml"]

FROM ${PYTHON_IMAGE} AS cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="trimtab" \
      org.opencontainers.image.description="A multi-model inference server with resource budgeting" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# The interpreter's own pip goes, too.
RUN groupadd --gid 10001 trimtab \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin trimtab \
    && install --directory --owner 10001 --group 10001 /models /etc/trimtab /var/lib/trimtab \
    && rm -rf /usr/local/lib/python3.11/ensurepip /usr/local/lib/python3.11/site-packages/* /usr/local/bin/pip*
COPY --from=build-cpu /opt/trimtab /opt/trimtab
ENV PATH=/opt/trimtab/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 RAY_USAGE_STATS_ENABLED=0
WORKDIR /var/lib/trimtab
USER 10001:10001
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=6 \
    CMD ["python", "-m", "server.alive", "/etc/trimtab/trimtab.yaml"]
ENTRYPOINT ["dumb-init", "--single-child", "--", "trimtab"]
CMD ["serve", "--config", "/etc/trimtab/trimtab.yaml"]
