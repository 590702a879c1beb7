# shellcheck shell=bash
# Our own two processes. They run on the host in both flavours of the local cloud. Sourced by localstack/cloud.
# At `run` the stream-processor itself migrates the ledger and creates topics and tables, so it goes first.

APPS=(stream-processor gateway)

require_binaries() {
    local name
    for name in "${APPS[@]}"; do
        [[ -x $BIN_DIR/$name ]] || die "$BIN_DIR/$name is missing: 'make build' makes it ('make up' does both)"
    done
}

stream_processor_ports() { echo "$PROCESSOR_PORT PROCESSOR_ADDR"; }
stream_processor_mark() { echo "$BIN_DIR/stream-processor run"; }
stream_processor_prepare() { :; }
stream_processor_command() { COMMAND=("$BIN_DIR/stream-processor" run); }
stream_processor_healthy() { http_ok "http://127.0.0.1:$PROCESSOR_PORT/health"; }

gateway_ports() { echo "$GATEWAY_PORT GATEWAY_ADDR"; }
gateway_mark() { echo "$BIN_DIR/gateway"; }
gateway_prepare() { :; }
gateway_command() { COMMAND=("$BIN_DIR/gateway"); }
gateway_healthy() { http_ok "http://127.0.0.1:$GATEWAY_PORT/health"; }
