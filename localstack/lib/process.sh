# shellcheck shell=bash
# Starting, finding and stopping long-running processes by pid file. Sourced by localstack/cloud.
#
# A service NAME brings functions named after it ('-' becomes '_'):
#   NAME_ports      lines "port SETTING": what it listens on and which setting says so
#   NAME_mark       words that only its own command line contains; they hold this clone's path
#   NAME_prepare    whatever must exist before it starts
#   NAME_command    fills the array COMMAND
#   NAME_healthy    does it answer, in its own protocol?
#   NAME_signal     optional: how to ask it to stop (default TERM)

START_SECONDS=60 # until a started service must answer
GRACE_SECONDS=15 # for a service found running and not answering: it may be starting
STOP_SECONDS=30  # between the polite signal and SIGKILL

call() {
    local name=$1 verb=$2
    shift 2
    "${name//-/_}_$verb" "$@"
}

pid_file() { printf '%s/%s.pid' "$RUN" "$1"; }
log_file() { printf '%s/%s.log' "$LOG" "$1"; }

# Is this pid, now, that service of this clone? Pids are reused, so a number in a file proves nothing.
is_ours() {
    local name=$1 pid=$2 words
    words=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") || return 1
    [[ $words == *"$(call "$name" mark)"* ]]
}

# Prints the pid of a running service, or fails.
running_pid() {
    local name=$1 pid=
    read -r pid 2>/dev/null <"$(pid_file "$name")" || return 1
    [[ $pid =~ ^[0-9]+$ ]] && is_ours "$name" "$pid" || return 1
    printf '%s' "$pid"
}

# Runs COMMAND… in a session of its own, so that it outlives this shell and its terminal. The process writes its own
# pid and then becomes the server, so the file holds the server's pid; every other descriptor is closed, so that
# nobody who reads our output waits for the server's end.
spawn() {
    local name=$1 pid_file log
    shift
    pid_file=$(pid_file "$name")
    log=$(log_file "$name")
    rotate "$log"
    rm -f "$pid_file"
    # shellcheck disable=SC2016 # expanded by the inner shell
    (cd "$ROOT" && setsid --fork bash -c '
        for fd in /proc/$$/fd/*; do
            fd=${fd##*/}
            if ((fd > 2)); then eval "exec $fd>&-"; fi
        done
        echo "$$" >"$1"
        shift
        exec "$@"' spawn "$pid_file" "$@" </dev/null >>"$log" 2>&1)
    local tries=0
    until [[ -s $pid_file ]]; do
        ((++tries < 100)) || die "$name wrote no pid file; see $log"
        sleep 0.05
    done
}

# Logs are appended to; one old file is kept.
rotate() {
    local log=$1 limit=$((64 * 1024 * 1024))
    if [[ -f $log ]] && (($(stat -c %s "$log") > limit)); then mv -f "$log" "$log.1"; fi
}

require_free_ports() {
    local name=$1 port setting owner
    while read -r port setting; do
        port_open "$port" || continue
        owner=
        if have ss; then owner=$(ss -Hltnp "sport = :$port" 2>/dev/null | grep -o 'users:.*' | head -1) || true; fi
        die "port $port, which $name needs, is taken by a process these scripts did not start${owner:+ ($owner)}." \
            "Stop that process, or choose another port in $setting (localstack/local.env, or in the environment)."
    done < <(call "$name" ports)
}

# Starts a service unless it runs and answers. Returns before it is healthy; await() waits.
begin() {
    local name=$1 pid was_running=
    if pid=$(running_pid "$name"); then
        was_running=yes
        if outdated "$name"; then
            step "$name: the program on disk is newer than the running process: restarting it"
        elif answers_within "$name" "$GRACE_SECONDS"; then
            step "$name: already running (pid $pid)"
            return
        else
            step "$name: pid $pid runs and does not answer: restarting it"
        fi
        halt "$name"
    fi
    require_free_ports "$name"
    call "$name" prepare
    # Noted first: whoever interrupts us from here on has something to stop.
    [[ -n $was_running ]] || note_started "$name"
    launch "$name"
    STARTING+=("$name")
}

launch() {
    local name=$1
    COMMAND=()
    call "$name" command
    spawn "$name" "${COMMAND[@]}"
    step "$name: started (pid $(<"$(pid_file "$name")"), log .local/log/$name.log)"
}

# `make run` and `make test` stop what they started and nothing else: they hand in a file to collect the names.
note_started() {
    if [[ -n ${ONSALE_STARTED:-} ]]; then echo "$1" >>"$ONSALE_STARTED"; fi
}

# Only our own two programs are rebuilt while they run.
outdated() {
    case $1 in
        gateway | stream-processor) [[ $BIN_DIR/$1 -nt $(pid_file "$1") ]] ;;
        *) return 1 ;;
    esac
}

answers_within() {
    local name=$1 end=$((SECONDS + $2))
    until call "$name" healthy; do
        ((SECONDS < end)) && running_pid "$name" >/dev/null || return 1
        sleep 0.2
    done
}

# Waits until a started service answers. One that dies while starting gets two more tries: after a kill -9, what
# the former process left behind (children, locks) may need a moment to go.
await() {
    local name=$1 try
    for try in 1 2 3; do
        if answers_within "$name" "$START_SECONDS"; then
            step "$name: healthy"
            return
        fi
        if running_pid "$name" >/dev/null; then break; fi
        if ((try < 3)); then
            step "$name: died while starting, trying again ($((try + 1)) of 3)"
            sleep 2
            launch "$name"
        fi
    done
    say "--- the end of .local/log/$name.log"
    tail -n 25 "$(log_file "$name")" >&2 || true
    die "$name did not become healthy"
}

# Starts services side by side, then waits for all of them.
ensure() {
    local name
    STARTING=()
    for name in "$@"; do begin "$name"; done
    for name in "${STARTING[@]}"; do await "$name"; done
}

# Stops a service: its signal, STOP_SECONDS of patience, SIGKILL. Does nothing if it is not running.
halt() {
    local name=$1 pid signal=TERM end
    if ! pid=$(running_pid "$name"); then
        rm -f "$(pid_file "$name")"
        return
    fi
    if declare -F "${name//-/_}_signal" >/dev/null; then signal=$(call "$name" signal); fi
    step "$name: stopping (pid $pid, SIG$signal)"
    kill -s "$signal" "$pid" 2>/dev/null || true
    end=$((SECONDS + STOP_SECONDS))
    while is_ours "$name" "$pid"; do
        if ((SECONDS >= end)); then
            step "$name: still there after $STOP_SECONDS s: SIGKILL"
            kill -s KILL "$pid" 2>/dev/null || true
            end=$((SECONDS + STOP_SECONDS))
        fi
        sleep 0.1
    done
    rm -f "$(pid_file "$name")"
}

describe() {
    local name=$1 pid ports state
    ports=$(call "$name" ports | cut -d' ' -f1 | paste -sd, -)
    if pid=$(running_pid "$name"); then
        if call "$name" healthy; then state=healthy; else state='not answering'; fi
    else
        pid=- state=stopped
    fi
    printf '%-17s %-14s %-8s %-12s %s\n' "$name" "$state" "$pid" "$ports" ".local/log/$name.log"
    [[ $state == healthy ]]
}
