# shellcheck shell=bash
# What has to be installed on the machine, and installing it. Sourced by localstack/cloud and localstack/check.

JAVA=${JAVA_HOME:+$JAVA_HOME/bin/}java
JAVA_OLDEST=17

# Collects the package of a missing command in MISSING.
need() {
    local command=$1 package=$2
    if ! have "$command"; then MISSING+=("$package"); fi
}

# For building: librdkafka and OpenSSL are built from source, with CMake, a C and C++ compiler, make and Perl.
need_to_build() {
    need curl curl
    need cmake cmake
    need pkg-config pkg-config
    need perl perl
    if ! { have cc && have c++ && have make; }; then MISSING+=(build-essential); fi
}

# For the services without Docker. Maven only until the libraries are there.
need_to_serve() {
    need curl curl
    need setpriv util-linux
    need redis-server redis-server
    newest_postgres >/dev/null || MISSING+=(postgresql)
    need "$JAVA" default-jre-headless
    if ! libraries_complete; then need mvn maven; fi
}

install_missing() {
    local sudo=()
    ((${#MISSING[@]})) || return 0
    have apt-get || die "missing here: ${MISSING[*]} (these are Debian's package names). This is not a Debian-like" \
        "system: install them, PostgreSQL 15+ and Java $JAVA_OLDEST+ among them, and start again."
    if ((EUID != 0)); then
        have sudo || die "missing here: ${MISSING[*]}. Neither root nor sudo is at hand; as root:" \
            "apt-get update && apt-get install ${MISSING[*]}"
        sudo=(sudo)
    fi
    step "installing from the distribution's archive: ${MISSING[*]}"
    "${sudo[@]}" apt-get update >&2 || die "apt-get update failed; the lines above say why"
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${MISSING[@]}" >&2 ||
        die "apt-get install failed; the lines above say why"
    MISSING=()
}

require_java() {
    local version
    version=$("$JAVA" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
    if ! [[ $version =~ ^[0-9]+$ ]] || ((version < JAVA_OLDEST)); then
        die "$JAVA is version ${version:-unknown}; Kafka and DynamoDB Local need Java $JAVA_OLDEST or newer"
    fi
}

# The toolchain itself is the one thing not installed here: which Rust somebody has, and how, is their decision.
require_cargo() {
    local wanted
    have cargo && return
    wanted=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$ROOT/rust-toolchain.toml" 2>/dev/null) || true
    say "error: cargo is missing. This project builds with Rust ${wanted:-of rust-toolchain.toml}, through rustup:"
    if have apt-cache && apt-cache policy rustup 2>/dev/null | grep -q 'Candidate: [0-9]'; then
        say "    apt-get install rustup     (as root)"
        say "    rustup toolchain install   (in this folder; it reads rust-toolchain.toml)"
    else
        say "    this distribution's archive has no package rustup (Debian has one from 13 on), and its cargo is too old;"
        say "    install rustup as https://rustup.rs describes, then open a new shell, or: . \"\$HOME/.cargo/env\""
    fi
    exit 1
}

# install_needs build|serve|test …: installs what is missing for these purposes. Silent when nothing is.
install_needs() {
    local purpose
    MISSING=()
    for purpose in "$@"; do
        case $purpose in
            build) need_to_build ;;
            serve) need_to_serve ;;
            # Some tests start a Redis of their own, whichever way the services run.
            test) need redis-server redis-server ;;
        esac
    done
    install_missing
    for purpose in "$@"; do
        case $purpose in
            build) require_cargo ;;
            serve)
                require_java
                newest_postgres >/dev/null ||
                    die "no PostgreSQL 15 or newer in /usr/lib/postgresql: the distribution's is too old"
                fetch_libraries
                ;;
        esac
    done
}
