# syntax=docker/dockerfile:1
# The image of Systole: docker build -t systole .

# With a C++ compiler for librdkafka, which is built from its source.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
ARG FEATURES=nats,postgres,kafka
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --profile dist --features "$FEATURES" \
    && install -D target/dist/systole /image/usr/bin/systole \
    && install -d /image/usr/share/doc/systole \
    && packaging/debian/licenses --features "$FEATURES" >/image/usr/share/doc/systole/third-party-licenses

FROM debian:bookworm-slim
# Roots of certificates, for sinks that speak TLS. Their versions are those of the base image.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/systole
COPY --from=build /image /
COPY LICENSE* /usr/share/doc/systole/
COPY packaging/docker/systole.toml /etc/systole/systole.toml
# A number, so that Kubernetes sees that it is not root.
USER 10001:10001
# Where gauges, histories and what a sink has not delivered outlive the container.
ENV STATE_DIRECTORY=/var/lib/systole
VOLUME /var/lib/systole
# Lines; what Prometheus scrapes; the page, once it has a token.
EXPOSE 8125/udp 9125/tcp 8127/tcp
# It reads what the kernel holds, delivers the last interval, and ends within `shutdown_grace` (10 s).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["/usr/bin/systole", "status", "--ready"]
ENTRYPOINT ["/usr/bin/systole"]
CMD ["run"]
