# shellcheck shell=bash
# The services by Docker Compose. Sourced by localstack/cloud.
# Compose's services carry our names: redis, kafka, postgres, dynamodb.

COMPOSE_FILE_PATH=$ROOT/localstack/docker-compose.yml
DOCKER_SECONDS=180

# Fills COMPOSE with the client there is: the plugin, or the older program of its own.
find_compose() {
    COMPOSE=()
    if have docker && docker compose version >/dev/null 2>&1; then
        COMPOSE=(docker compose)
    elif have docker-compose; then
        COMPOSE=(docker-compose)
    else
        return 1
    fi
}

engine_answers() { have docker && timeout 5 docker info >/dev/null 2>&1; }
docker_usable() { find_compose && engine_answers; }

# A project name of its own for every clone: two clones must not manage each other's containers.
compose() {
    local project
    project=onsale-$(cksum <<<"$ROOT" | cut -d' ' -f1)
    "${COMPOSE[@]}" -p "$project" -f "$COMPOSE_FILE_PATH" "$@"
}

container_of() { compose ps -q "$1" 2>/dev/null | head -n 1; }

inspect() { docker inspect -f "$2" "$1" 2>/dev/null; }

container_running() {
    local id
    id=$(container_of "$1")
    [[ -n $id && $(inspect "$id" '{{.State.Running}}') == true ]]
}

container_healthy() {
    local id
    id=$(container_of "$1")
    [[ -n $id && $(inspect "$id" '{{.State.Health.Status}}') == healthy ]]
}

# What the container says of itself, and what the published port answers.
docker_healthy() {
    container_healthy "$1" || return 1
    [[ $1 == postgres ]] || call "$1" healthy
}

docker_up() {
    local name fresh=()
    for name in "$@"; do
        if container_running "$name"; then
            step "$name: its container runs already"
        else
            require_free_ports "$name"
            mkdir -p "$DATA/docker/${name/dynamodb/localstack}"
            fresh+=("$name")
            note_started "$name"
        fi
    done
    # For those that run it does nothing, unless the compose file has changed.
    compose up -d "$@" >&2 || die "compose could not start the services; the lines above say why"
    for name in "$@"; do docker_await "$name"; done
    if ((${#fresh[@]})); then step "started by compose: ${fresh[*]}"; fi
}

docker_await() {
    local name=$1 end=$((SECONDS + DOCKER_SECONDS))
    until docker_healthy "$name"; do
        if ((SECONDS >= end)); then
            compose logs --tail 25 "$name" >&2 || true
            die "$name did not become healthy within $DOCKER_SECONDS s"
        fi
        sleep 1
    done
    docker_pid "$name"
    step "$name: healthy"
}

# On Linux a container's first process is a process of the host, so its pid can stand in the same file as without
# Docker. Where the engine runs in a virtual machine the number would belong to a stranger here, and is not written.
docker_pid() {
    local name=$1 pid
    pid=$(inspect "$(container_of "$name")" '{{.State.Pid}}') || return 0
    rm -f "$(pid_file "$name")"
    if grep -qs "$(container_of "$name")" "/proc/$pid/cgroup" "/proc/$pid/mountinfo"; then
        echo "$pid" >"$(pid_file "$name")"
    fi
}

docker_down() {
    local name
    (($#)) || return 0
    if ! engine_answers; then
        step "no Docker engine answers: its containers do not run either"
        return
    fi
    step "stopping by compose: $*"
    compose stop "$@" >&2
    compose rm -f "$@" >&2
    for name in "$@"; do rm -f "$(pid_file "$name")"; done
}

docker_describe() {
    local name=$1 state=stopped
    if container_running "$name"; then
        state='not answering'
        if docker_healthy "$name"; then state=healthy; fi
    fi
    printf '%-17s %-14s %-8s %-12s %s\n' "$name" "$state" docker \
        "$(call "$name" ports | sed -n '1s/ .*//p')" "localstack/cloud logs $name"
    [[ $state == healthy ]]
}
