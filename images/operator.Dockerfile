# The operator's image. Its context is the repository, its mounts are those of trainer.Dockerfile.
#
# BASE_IMAGE brings Python 3.11 or newer with venv. The official Kubernetes client, the trainer and pip stay out.
ARG BASE_IMAGE=python:3.12-slim

# Dependencies alone, so that a change of our own sources reuses this stage and its layer.
FROM ${BASE_IMAGE} AS dependencies
ARG PIP_CONFIG_FILE
COPY requirements/build.txt requirements/operator.txt /build/
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r /build/build.txt
RUN python3 -m venv --without-pip /opt/venv \
 && /opt/build/bin/pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes -r /build/operator.txt \
 && cd /opt/venv/lib/python3*/site-packages \
 && echo /opt/rltrain > rltrain.pth

# Our packages, built without a network. The command for people goes: it needs the client that stays out.
FROM dependencies AS packages
COPY crds /build/crds
COPY operator /build/operator
RUN /opt/build/bin/pip wheel --no-cache-dir --no-index --no-deps --no-build-isolation --wheel-dir /build/wheels \
      /build/crds /build/operator \
 && /opt/build/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-index --no-deps \
      --target /opt/rltrain /build/wheels/*.whl \
 && rm /opt/rltrain/bin/kubectl-rltrain

FROM ${BASE_IMAGE}
RUN useradd --uid 1000 --create-home --shell /usr/sbin/nologin rltrain
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=packages /opt/rltrain /opt/rltrain
ENV PATH=/opt/venv/bin:/opt/rltrain/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/home/rltrain \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
WORKDIR /home/rltrain
USER 1000:1000
CMD ["python", "-m", "rltrain_operator"]
