# Image of the agent without GPUs: head and ranks on CPUs.
#
#   docker build  -f deploy/docker/agent.Dockerfile -t ghcr.io/lockstep-dev/agent:0.1.0 .
#   buildah build --layers -f deploy/docker/agent.Dockerfile -t ghcr.io/lockstep-dev/agent:0.1.0 .
#
# For a compiled program in DIR/out, pass --build-context build=DIR. Then only the last stage runs.

ARG RUST_VERSION=1.95

FROM docker.io/library/rust:${RUST_VERSION}-bookworm AS manifests
WORKDIR /src
COPY . .
RUN deploy/docker/manifests /manifests

FROM docker.io/library/rust:${RUST_VERSION}-bookworm AS build
WORKDIR /src
# Only the dependencies. This layer is kept until a dependency changes.
COPY --from=manifests /manifests .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --release --locked -p lockstep-agent --bins
# The sources of this repository. They are touched, so that they are newer than the empty sources that were compiled above.
COPY proto proto
COPY agent agent
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    find proto agent -name '*.rs' -exec touch {} + \
    && cargo build --release --locked -p lockstep-agent --bins \
    && mkdir /out \
    && cp target/release/lockstep-agent /out/

FROM debian:bookworm-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="lockstep-agent" \
      org.opencontainers.image.description="One node of an InferenceCluster: its head or its ranks, on CPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/lockstep-agent /usr/local/bin/
# A number, from which the kubelet can see that the user is not root.
USER 65532:65532
WORKDIR /tmp
# gRPC, probes, HTTP, control, and the ring of the first rank.
EXPOSE 50051 1233 1234 1235 1236
ENTRYPOINT ["/usr/local/bin/lockstep-agent"]
