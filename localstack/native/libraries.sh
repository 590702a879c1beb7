# shellcheck shell=bash
# Fetches the Java services with Maven into .local/lib. Sourced by localstack/cloud.

# Which of the two Maven has to bring.
libraries() {
    if [[ -z ${KAFKA_HOME:-} ]]; then echo kafka; fi
    echo dynamodb
}

# The stamp holds the checksum of the pom that filled the folder: a changed version is fetched again, an interrupted
# download never counts.
pom_sum() { cksum <"$NATIVE/pom.xml"; }
fetched() { [[ -r $LIB/$1/.pom && $(<"$LIB/$1/.pom") == "$(pom_sum)" ]]; }

libraries_complete() {
    local name
    for name in $(libraries); do
        fetched "$name" || return 1
    done
}

fetch_libraries() {
    local name
    for name in $(libraries); do
        fetched "$name" || fetch "$name"
    done
}

# Where Maven looks is how the machine's Maven is set up; nothing is configured here.
fetch() {
    local name=$1
    step "$name: fetching its libraries with Maven (about 50 MB, once)"
    rm -rf "$LIB/$name.new"
    # Progress goes where our own messages go.
    mvn -B -f "$NATIVE/pom.xml" -P "$name" dependency:copy-dependencies \
        "-DoutputDirectory=$LIB/$name.new" -DincludeScope=runtime >&2 ||
        die "Maven could not fetch $name; the lines above say why. The next try goes on from there."
    pom_sum >"$LIB/$name.new/.pom"
    rm -rf "${LIB:?}/$name"
    mv "$LIB/$name.new" "$LIB/$name"
}
