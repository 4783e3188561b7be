# The agent of nodes with NVIDIA GPUs: ranks exchange tensors over NCCL, which the runtime image holds.
#
#   docker build  -f deploy/docker/agent-cuda.Dockerfile -t ghcr.io/lockstep-dev/agent:0.1.0-cuda .
#   buildah build --layers -f deploy/docker/agent-cuda.Dockerfile -t ghcr.io/lockstep-dev/agent:0.1.0-cuda .
#
# With a program that is compiled already, in DIR/out: --build-context build=DIR. Then nothing but the last stage runs.

ARG RUST_VERSION=1.95
# The same major version as the bindings in Cargo.toml (cudarc).
ARG CUDA_VERSION=13.0.1

FROM docker.io/library/rust:${RUST_VERSION}-bookworm AS manifests
WORKDIR /src
COPY . .
RUN deploy/docker/manifests /manifests

FROM docker.io/library/rust:${RUST_VERSION}-bookworm AS build
WORKDIR /src
# Dependencies alone: this layer is kept until one of them changes.
COPY --from=manifests /manifests .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --release --locked -p lockstep-agent --bins --features nccl
# Our own sources. They are touched, so that they are newer than the empty ones that were compiled above.
COPY proto proto
COPY agent agent
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    find proto agent -name '*.rs' -exec touch {} + \
    && cargo build --release --locked -p lockstep-agent --bins --features nccl \
    && mkdir /out \
    && cp target/release/lockstep-agent /out/

FROM docker.io/nvidia/cuda:${CUDA_VERSION}-runtime-ubuntu24.04
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="lockstep-agent" \
      org.opencontainers.image.description="One node of an InferenceCluster: its head or its ranks, on CPUs and NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/lockstep-agent /usr/local/bin/
# A number, so that a kubelet can tell that it is not root.
USER 65532:65532
WORKDIR /tmp
# gRPC, probes, HTTP, control, the first rank's ring.
EXPOSE 50051 1233 1234 1235 1236
ENTRYPOINT ["/usr/local/bin/lockstep-agent"]
