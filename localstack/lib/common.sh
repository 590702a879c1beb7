# shellcheck shell=bash
# What every script here shares: where things are, how to speak, the settings. Sourced, never run.
# shellcheck disable=SC2034 # not every script uses every variable

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
NATIVE=$ROOT/localstack/native
LOCAL_DIR=$ROOT/.local
DATA=$LOCAL_DIR/data
LOG=$LOCAL_DIR/log
RUN=$LOCAL_DIR/run
LIB=$LOCAL_DIR/lib
BIN_DIR=${ONSALE_BIN_DIR:-${CARGO_TARGET_DIR:-target}/release}
[[ $BIN_DIR == /* ]] || BIN_DIR=$ROOT/$BIN_DIR

say() { printf '%s\n' "$*" >&2; }
step() { say "==> $*"; }
die() {
    say "error: $*"
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Several places below rely on plain words in a process's command line and in generated configuration.
[[ $ROOT != *[[:space:]\|]* ]] || die "the path of this clone must not contain white space or '|': $ROOT"

make_folders() { mkdir -p "$DATA" "$LOG" "$RUN" "$LIB"; }

# Exports the settings of local.env that the caller has not set.
load_env() {
    local line key
    while IFS= read -r line || [[ -n $line ]]; do
        [[ $line =~ ^[A-Z_][A-Z0-9_]*= ]] || continue
        key=${line%%=*}
        [[ -v $key ]] || export "$key=${line#*=}"
    done <"$ROOT/localstack/local.env"
}

# host:port out of "scheme://user:password@host:port/path", "host:port" or a list of these (the first counts).
authority() {
    local value=${1#*://}
    value=${value%%/*}
    value=${value##*@}
    printf '%s' "${value%%,*}"
}

# The local port named by a setting. These scripts start services on loopback only: a setting that points elsewhere
# is meant for a system somebody else runs.
port_of() {
    local setting=$1 address
    address=$(authority "${!setting}")
    case ${address%:*} in
        127.0.0.1 | localhost | 0.0.0.0) ;;
        *) die "$setting=${!setting} does not point to this machine: the local cloud serves 127.0.0.1 only" ;;
    esac
    [[ ${address##*:} =~ ^[0-9]+$ ]] || die "$setting=${!setting} names no port"
    printf '%s' "${address##*:}"
}

# Every port, from the settings. Compose reads the exported ones.
read_ports() {
    REDIS_PORT=$(port_of REDIS_URL)
    KAFKA_PORT=$(port_of KAFKA_BROKERS)
    POSTGRES_PORT=$(port_of DATABASE_URL)
    DYNAMODB_PORT=$(port_of AWS_ENDPOINT_URL_DYNAMODB)
    GATEWAY_PORT=$(port_of GATEWAY_ADDR)
    PROCESSOR_PORT=$(port_of PROCESSOR_ADDR)
    export REDIS_PORT KAFKA_PORT POSTGRES_PORT DYNAMODB_PORT
}

# Role, password and database of the ledger, from DATABASE_URL.
read_database() {
    [[ $DATABASE_URL =~ ^postgres(ql)?://([A-Za-z0-9_-]+):([A-Za-z0-9_-]+)@[^/]+/([A-Za-z0-9_-]+) ]] ||
        die "DATABASE_URL must look like postgres://role:password@host:port/database, in letters, digits, - and _"
    export POSTGRES_USER=${BASH_REMATCH[2]} POSTGRES_PASSWORD=${BASH_REMATCH[3]} POSTGRES_DB=${BASH_REMATCH[4]}
}

# shellcheck disable=SC2016 # expanded by the inner shell
port_open() { timeout 1 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0"' "$1" 2>/dev/null; }

# Sends BYTES (escapes as in printf) to a local port and prints the first COUNT bytes of the answer: enough to speak
# a few words of a protocol without that protocol's client, which a machine that uses Docker does not have.
# shellcheck disable=SC2016 # expanded by the inner shell
ask() {
    timeout 2 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && printf "$1" >&3 && head -c "$2" <&3' "$1" "$2" "$3" 2>/dev/null
}

# 200 from a local URL? Proxies of the environment have no business on loopback.
http_ok() { curl --noproxy '*' -fs -m 3 -o /dev/null "$1" 2>/dev/null; }
