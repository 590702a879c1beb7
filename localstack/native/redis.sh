# shellcheck shell=bash
# Redis, from the distribution's package. Sourced by localstack/cloud.

redis_ports() { echo "$REDIS_PORT REDIS_URL"; }
redis_mark() { echo "--dir $DATA/redis"; }
redis_prepare() { mkdir -p "$DATA/redis"; }
redis_command() { COMMAND=(redis-server "$NATIVE/redis.conf" --port "$REDIS_PORT" --dir "$DATA/redis"); }

# While it loads the append-only file Redis answers PING with an error.
redis_healthy() { [[ $(ask "$REDIS_PORT" 'PING\r\n' 5) == +PONG ]]; }
