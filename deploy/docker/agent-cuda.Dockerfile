# The agent of nodes with NVIDIA GPUs, with the features cuda and nccl. Pods without a GPU run it too, heads among them:
# it then finds no driver, and sees no devices.
#
#   docker build  -f deploy/docker/agent-cuda.Dockerfile -t ghcr.io/lockstep-dev/agent:0.1.0-cuda .
#   buildah build --layers -f deploy/docker/agent-cuda.Dockerfile -t ghcr.io/lockstep-dev/agent:0.1.0-cuda .
#
# With a program that is compiled already, in DIR/out: --build-context build=DIR. Then nothing but the last stage runs.

ARG RUST_VERSION=1.95
# Its libraries are loaded at run time. The same major version as the compiler's (tests/cuda/requirements.txt) and as that
# of the bindings in Cargo.toml (cudarc).
ARG CUDA_VERSION=13.0.1

FROM docker.io/library/rust:${RUST_VERSION}-bookworm AS manifests
WORKDIR /src
COPY . .
RUN deploy/docker/manifests /manifests

FROM docker.io/library/rust:${RUST_VERSION}-bookworm AS build
# The compute capability of the GPUs that the image is for, and no others: 80 for A100, 90 for H100 and H200.
ARG CUDA_COMPUTE_CAP=90
WORKDIR /src
COPY tests/prepare tests/prepare
COPY tests/cuda tests/cuda
# Dependencies alone: this layer is kept until one of them changes.
COPY --from=manifests /manifests .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/root/.cache/lockstep \
    tests/cuda/build build --release --locked --bins
# Our own sources. They are touched, so that they are newer than the empty ones that were compiled above.
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
# NCCL by the name that the agent loads; the image has it under its version's alone.
RUN for nccl in /usr/lib/*-linux-gnu/libnccl.so.2; do ln -s libnccl.so.2 "${nccl%.2}"; done
COPY --from=build /out/lockstep-agent /usr/local/bin/
# A number, so that a kubelet can tell that it is not root.
USER 65532:65532
WORKDIR /tmp
# gRPC, probes, HTTP, control, the first rank's ring.
EXPOSE 50051 1233 1234 1235 1236
ENTRYPOINT ["/usr/local/bin/lockstep-agent"]
