# shellcheck shell=bash
# Apache Kafka from Maven (pom.xml), or from KAFKA_HOME where that is set. Sourced by localstack/cloud.

KAFKA_CONFIG=$RUN/kafka.properties

kafka_ports() {
    echo "$KAFKA_PORT KAFKA_BROKERS"
    echo "$KAFKA_CONTROLLER_PORT KAFKA_CONTROLLER_PORT"
}
kafka_mark() { echo "kafka.Kafka $KAFKA_CONFIG"; }

kafka_libraries() {
    if [[ -n ${KAFKA_HOME:-} ]]; then
        [[ -d $KAFKA_HOME/libs ]] || die "KAFKA_HOME=$KAFKA_HOME has no folder libs"
        echo "$KAFKA_HOME/libs"
    else
        echo "$LIB/kafka"
    fi
}

kafka_java() {
    COMMAND=("$JAVA" "$@" "-Dlog4j2.configurationFile=$NATIVE/log4j2.properties" -cp "$(kafka_libraries)/*")
}

kafka_prepare() {
    mkdir -p "$DATA/kafka"
    sed -e "s|@PORT@|$KAFKA_PORT|" -e "s|@CONTROLLER_PORT@|$KAFKA_CONTROLLER_PORT|" -e "s|@DATA@|$DATA/kafka|" \
        "$NATIVE/kafka.properties" >"$KAFKA_CONFIG"
    if [[ ! -f $DATA/kafka/meta.properties ]]; then kafka_format; fi
}

# Storage is formatted once. A new cluster id each time tells a fresh log from an old one.
kafka_format() {
    local id
    step "kafka: formatting its storage"
    kafka_java -Xmx128m -XX:TieredStopAtLevel=1
    id=$("${COMMAND[@]}" kafka.tools.StorageTool random-uuid) || die "Kafka's storage tool does not run"
    # -t=… and not -t …: an id may begin with a dash.
    "${COMMAND[@]}" kafka.tools.StorageTool format "--cluster-id=$id" "--config=$KAFKA_CONFIG" >>"$(log_file kafka)" 2>&1 ||
        die "formatting Kafka's storage failed, see .local/log/kafka.log"
}

kafka_command() {
    kafka_java -Xms256m -Xmx512m -XX:+ExitOnOutOfMemoryError
    COMMAND+=(kafka.Kafka "$KAFKA_CONFIG")
}

# A metadata request (version 1, no topics), by hand: a Java tool would take two seconds for each try. The answer
# begins with its length, our correlation id 1 and the number of brokers the cluster offers to clients: a broker that
# has not finished starting is fenced and not among them. Redpanda answers the same.
kafka_healthy() {
    local answer
    answer=$(ask "$KAFKA_PORT" '\x00\x00\x00\x0e\x00\x03\x00\x01\x00\x00\x00\x01\xff\xff\x00\x00\x00\x00' 12 |
        od -An -v -tx1 | tr -d ' \n')
    [[ ${answer:8:8} == 00000001 && ${#answer} == 24 && ${answer:16:8} != 00000000 ]]
}
