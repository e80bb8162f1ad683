# semiseg_jax for Cloud TPUs. From a checkout:
#
#     docker build -f experiments/launch/tpu.Dockerfile -t IMAGE .
#     docker run --privileged --net=host -v "$PWD/runs:/runs" IMAGE train --config=quickstart --workdir=/runs/first
FROM python:3.12-slim
ARG JAX=jax[tpu]
ARG EXTRAS=gcs
RUN pip install --no-cache-dir "$JAX"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY semiseg_jax semiseg_jax
COPY configs configs
RUN pip install --no-cache-dir ".[$EXTRAS]" && JAX_PLATFORMS=cpu semiseg list configs
WORKDIR /runs
ENTRYPOINT ["semiseg"]
