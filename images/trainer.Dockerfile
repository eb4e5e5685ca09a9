# The trainer's image: the head, trainer and inference pods of an RLTrainingJob run it. Its context is the repository.
#
# BASE_IMAGE brings Python 3.11 or newer with venv, and bash. On a CPU that is a plain Python image; on GPUs a CUDA
# runtime image with Python, where TORCH_OPTIONS chooses the build of torch (images/README.md). What belongs to the
# machine that builds (pip's settings, certificates, wheels at hand) is mounted and never enters a layer.
ARG BASE_IMAGE=python:3.12-slim

# Our packages: their sources and what builds them stay here.
FROM ${BASE_IMAGE} AS packages
ARG PIP_CONFIG_FILE
COPY requirements/build.txt /build/
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r /build/build.txt \
 && python3 -m venv --without-pip /opt/venv
COPY crds /build/crds
COPY trainer /build/trainer
RUN /opt/build/bin/pip wheel --no-cache-dir --no-index --no-deps --no-build-isolation --wheel-dir /build/wheels \
      /build/crds /build/trainer \
 && /opt/build/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-index --no-deps \
      --target /opt/rltrain /build/wheels/*.whl

FROM ${BASE_IMAGE}
# A pod may be started through a login shell, and a login shell forgets PATH: hence the profile.
RUN useradd --uid 1000 --create-home --shell /bin/bash rltrain \
 && echo 'export PATH=/opt/venv/bin:/opt/rltrain/bin:$PATH' > /etc/profile.d/rltrain.sh
ARG PIP_CONFIG_FILE
ARG TORCH_REQUIREMENT=torch==2.13.0
ARG TORCH_OPTIONS=
COPY requirements/trainer.txt /opt/requirements/
# One step, made here and not in a stage of its own, because copying it between stages takes longer than making it. The
# lock alone decides it, so a change of our own sources reuses it. In it:
# - tests, test programs, static libraries and Java archives of the dependencies go: a quarter of a gigabyte;
# - byte code stays: pods cannot write it, and every Ray worker would compile its imports again;
# - pip does not look at what the locked packages ask for: some ask for torch, which has no hash here and comes next;
# - our own packages, copied below, join this environment's path.
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r /opt/requirements/trainer.txt \
 && /opt/venv/bin/pip install --no-cache-dir ${TORCH_OPTIONS} "${TORCH_REQUIREMENT}" \
 && cd /opt/venv/lib/python3*/site-packages \
 && rm -rf torch/test torch/bin/test_* torch/bin/*Test torch/bin/protoc* ray/jars \
      mpmath/tests networkx/*/tests networkx/*/*/tests numpy/*/tests pandas/tests pyarrow/tests \
      sympy/*/tests sympy/*/*/tests \
 && find . -name '*.a' -delete \
 && echo /opt/rltrain > rltrain.pth
COPY --from=packages /opt/rltrain /opt/rltrain
ENV PATH=/opt/venv/bin:/opt/rltrain/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/home/rltrain \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
WORKDIR /home/rltrain
USER 1000:1000
CMD ["python", "-m", "rltrain_trainer.driver"]
