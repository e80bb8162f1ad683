# semiseg_jax for NVIDIA GPUs. JAX brings CUDA itself; the machine brings the driver. From a checkout:
#
#     docker build -f experiments/launch/cuda.Dockerfile -t IMAGE .
#     docker run --gpus=all --shm-size=16g -v "$PWD/runs:/runs" IMAGE train --config=quickstart --workdir=/runs/first
FROM python:3.12-slim
ARG JAX=jax[cuda13]
ARG EXTRAS=gcs
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install --no-cache-dir "$JAX"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY semiseg_jax semiseg_jax
COPY configs configs
RUN pip install --no-cache-dir ".[$EXTRAS]" && JAX_PLATFORMS=cpu semiseg list configs
WORKDIR /runs
ENTRYPOINT ["semiseg"]
