# Image of the agent for NVIDIA GPUs, with the features cuda and nccl. Pods without a GPU can run it too, for example heads.
# The agent then finds no driver and no devices.
#
#   docker build  -f deploy/docker/agent-cuda.Dockerfile -t ghcr.io/lockstep-dev/agent:0.1.0-cuda .
#   buildah build --layers -f deploy/docker/agent-cuda.Dockerfile -t ghcr.io/lockstep-dev/agent:0.1.0-cuda .
#
# For a compiled program in DIR/out, pass --build-context build=DIR. Then only the last stage runs.

ARG RUST_VERSION=1.95
# Version of CUDA, whose libraries are loaded at run time. Its major version must be that of the compiler
# (tests/cuda/requirements.txt) and of the bindings in Cargo.toml (cudarc).
ARG CUDA_VERSION=13.0.1

FROM docker.io/library/rust:${RUST_VERSION}-bookworm AS manifests
WORKDIR /src
COPY . .
RUN deploy/docker/manifests /manifests

FROM docker.io/library/rust:${RUST_VERSION}-bookworm AS build
# Compute capability of the GPUs. The image runs on no others. 80 is A100; 90 is H100 and H200.
ARG CUDA_COMPUTE_CAP=90
WORKDIR /src
COPY tests/prepare tests/prepare
COPY tests/cuda tests/cuda
# Only the dependencies. This layer is kept until a dependency changes.
COPY --from=manifests /manifests .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/root/.cache/lockstep \
    tests/cuda/build build --release --locked --bins
# The sources of this repository. They are touched, so that they are newer than the empty sources that were compiled above.
COPY proto proto
COPY agent agent
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/root/.cache/lockstep \
    find proto agent -name '*.rs' -exec touch {} + \
    && tests/cuda/build build --release --locked --bins \
    && mkdir /out \
    && cp target/*/release/lockstep-agent /out/

FROM docker.io/nvidia/cuda:${CUDA_VERSION}-runtime-ubuntu24.04
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="lockstep-agent" \
      org.opencontainers.image.description="One node of an InferenceCluster: its head or its ranks, on CPUs and NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The agent loads NCCL by a name without version. The base image has only a name with a version.
RUN for nccl in /usr/lib/*-linux-gnu/libnccl.so.2; do ln -s libnccl.so.2 "${nccl%.2}"; done
COPY --from=build /out/lockstep-agent /usr/local/bin/
# A number, from which the kubelet can see that the user is not root.
USER 65532:65532
WORKDIR /tmp
# gRPC, probes, HTTP, control, and the ring of the first rank.
EXPOSE 50051 1233 1234 1235 1236
ENTRYPOINT ["/usr/local/bin/lockstep-agent"]
