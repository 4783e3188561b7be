# Image of the operator, with the `lockstep` command line.
#
#   docker build  -f deploy/docker/operator.Dockerfile -t ghcr.io/lockstep-dev/operator:0.1.0 .
#   buildah build --layers -f deploy/docker/operator.Dockerfile -t ghcr.io/lockstep-dev/operator:0.1.0 .
#
# For compiled programs in DIR/out, pass --build-context build=DIR. Then only the last stage runs.

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
    cargo build --release --locked -p lockstep-operator --bins
# The sources of this repository. They are touched, so that they are newer than the empty sources that were compiled above.
COPY proto proto
COPY operator operator
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    find proto operator -name '*.rs' -exec touch {} + \
    && cargo build --release --locked -p lockstep-operator --bins \
    && mkdir /out \
    && cp target/release/lockstep-operator target/release/lockstep /out/

FROM debian:bookworm-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="lockstep-operator" \
      org.opencontainers.image.description="Runs InferenceClusters: one language model over many nodes, behind one endpoint" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/lockstep-operator /out/lockstep /usr/local/bin/
# A number, from which the kubelet can see that the user is not root.
USER 65532:65532
WORKDIR /tmp
# Port of health, readiness and metrics.
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/lockstep-operator"]
