# A static binary in an empty image. Build: docker build -t sidecarset-operator:0.1.0 .
# (the alpine toolchain links musl statically by default; ring needs its C compiler).
FROM rust:1.95-alpine AS build
RUN apk add --no-cache build-base
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package sidecarset --bin sidecarset-operator && \
    cp target/release/sidecarset-operator /sidecarset-operator

FROM scratch
COPY --from=build /sidecarset-operator /sidecarset-operator
USER 65532:65532
EXPOSE 9443 8081
ENTRYPOINT ["/sidecarset-operator"]
CMD ["run", "--log-format=json"]
