# shellcheck shell=bash
# PostgreSQL 15 or newer, from the distribution's package. Sourced by localstack/cloud.
#
# PostgreSQL refuses to run as root. Where we are root it runs as the package's own user, postgres, and that user must
# be able to reach its files: a clone under /root is out of its reach, and then the files lie in POSTGRES_AWAY, with
# a link to them in .local/data. The server speaks TCP on loopback only and has no Unix socket, so nothing else of it
# needs a place.

POSTGRES_HOME=$DATA/postgres
POSTGRES_AWAY=/var/lib/onsale

# The cluster by its real path: the user postgres may be unable to follow the link.
postgres_cluster() {
    local home=$POSTGRES_HOME
    if [[ -L $home ]]; then home=$(readlink "$home"); fi
    echo "$home/cluster"
}

postgres_ports() { echo "$POSTGRES_PORT DATABASE_URL"; }
postgres_mark() { echo "-D $(postgres_cluster) "; }
# Fast shutdown. TERM would wait until every client has left by itself.
postgres_signal() { echo INT; }

as_postgres() {
    if ((EUID == 0)); then
        (cd / && setpriv --reuid=postgres --regid=postgres --init-groups "$@")
    else
        "$@"
    fi
}

# The programs of the version that made the cluster, or else the newest there is.
postgres_bin() {
    local version made_by
    made_by=$(postgres_cluster)/PG_VERSION
    if [[ -r $made_by ]]; then
        version=$(<"$made_by")
        [[ -x /usr/lib/postgresql/$version/bin/postgres ]] ||
            die ".local/data/postgres was made by PostgreSQL $version, which is not installed. Install postgresql-$version," \
                "or start over with 'make clean-local'."
    else
        version=$(newest_postgres)
    fi
    echo "/usr/lib/postgresql/$version/bin"
}

newest_postgres() {
    local found
    # shellcheck disable=SC2012 # the names are version numbers
    found=$(ls -d /usr/lib/postgresql/*/bin/postgres 2>/dev/null | cut -d/ -f5 | sort -V | tail -n 1)
    [[ $found =~ ^[0-9]+$ ]] && ((found >= 15)) || return 1
    echo "$found"
}

postgres_prepare() {
    postgres_home
    if [[ -f $(postgres_cluster)/PG_VERSION ]]; then postgres_outwait; else postgres_create; fi
}

# A killed server's pid stays in its lock file, and PostgreSQL does not start while that pid exists at all. The kernel
# needs a moment to take the process away. (Whose pid it is by now is not ours to judge: then PostgreSQL says so.)
postgres_outwait() {
    local pid tries=0
    read -r pid 2>/dev/null <"$(postgres_cluster)/postmaster.pid" || return 0
    while [[ -d /proc/$pid ]] && ((++tries < 50)); do sleep 0.1; done
}

# The folder of the cluster, owned by and open to the user that runs the server.
postgres_home() {
    local away
    if ((EUID != 0)); then
        mkdir -p "$POSTGRES_HOME"
        return
    fi
    if [[ -e $POSTGRES_HOME || -L $POSTGRES_HOME ]]; then
        away=$(dirname "$(postgres_cluster)")
        as_postgres test -w "$away/." ||
            die "the user postgres cannot write to $away (any more): check the folders above it, or 'make clean-local'"
        return
    fi
    install -d -o postgres -g postgres -m 700 "$POSTGRES_HOME"
    as_postgres test -w "$POSTGRES_HOME/." && return
    # Out of reach. A new folder each time: should somebody delete .local by hand, an old ledger must not come back
    # to meet an empty log.
    rmdir "$POSTGRES_HOME"
    install -d -m 755 "$POSTGRES_AWAY"
    away=$(mktemp -d "$POSTGRES_AWAY/postgres.XXXXXX")
    chown postgres:postgres "$away"
    ln -s "$away" "$POSTGRES_HOME"
    step "postgres: the user postgres cannot reach $DATA, so its files are in $away"
}

# A new cluster with the role and the database of DATABASE_URL. It gets its name when it is complete: an interrupted
# start leaves nothing half made. The superuser has no password and so cannot log in at all; the role is created
# through single-user mode, before the server ever listens.
postgres_create() {
    local cluster new bin output
    cluster=$(postgres_cluster)
    new=$cluster.new
    bin=$(postgres_bin)
    step "postgres: creating a cluster, role $POSTGRES_USER and database $POSTGRES_DB"
    rm -rf "$new"
    as_postgres "$bin/initdb" -D "$new" --username=postgres --auth=reject --encoding=UTF8 --locale=C \
        >>"$(log_file postgres)" 2>&1 || die "initdb failed, see .local/log/postgres.log"
    echo 'host all all 127.0.0.1/32 scram-sha-256' | as_postgres tee "$new/pg_hba.conf" >/dev/null
    output=$(as_postgres "$bin/postgres" --single -D "$new" postgres 2>&1 <<SQL
CREATE ROLE "$POSTGRES_USER" LOGIN CREATEDB PASSWORD '$POSTGRES_PASSWORD'
CREATE DATABASE "$POSTGRES_DB" OWNER "$POSTGRES_USER"
SQL
    ) || die "PostgreSQL's single-user mode failed: $output"
    [[ $output != *ERROR* && $output != *FATAL* ]] || die "creating role and database failed: $output"
    mv "$new" "$cluster"
}

# Durability stays at its defaults (fsync, synchronous_commit), said aloud because the ledger's promises rest on it.
postgres_command() {
    COMMAND=("$(postgres_bin)/postgres" -D "$(postgres_cluster)" -p "$POSTGRES_PORT"
        -c listen_addresses=127.0.0.1 -c unix_socket_directories=
        -c fsync=on -c synchronous_commit=on -c full_page_writes=on
        -c max_connections=200 -c shared_buffers=256MB -c max_wal_size=2GB
        -c timezone=UTC -c log_timezone=UTC -c log_checkpoints=off -c "log_line_prefix=%m [%p] %d ")
    if ((EUID == 0)); then
        COMMAND=(setpriv --reuid=postgres --regid=postgres --init-groups "${COMMAND[@]}")
    fi
}

postgres_healthy() {
    [[ $(PGCONNECT_TIMEOUT=2 timeout 5 "$(postgres_bin)/psql" "$DATABASE_URL" -XAtqc 'SELECT 1' 2>/dev/null) == 1 ]]
}

# Removes the data, wherever it is.
postgres_remove() {
    local target
    if [[ -L $POSTGRES_HOME ]]; then
        target=$(readlink "$POSTGRES_HOME")
        if [[ $target == "$POSTGRES_AWAY"/postgres.* ]]; then rm -rf "$target"; fi
        rmdir "$POSTGRES_AWAY" 2>/dev/null || true
    fi
    rm -rf "$POSTGRES_HOME"
}
