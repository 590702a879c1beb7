# shellcheck shell=bash
# DynamoDB Local from Maven (pom.xml), bound to loopback (dynamodb.xml). Sourced by localstack/cloud.

dynamodb_ports() { echo "$DYNAMODB_PORT AWS_ENDPOINT_URL_DYNAMODB"; }
dynamodb_mark() { echo "-Ddynamodb.data=$DATA/dynamodb "; }

dynamodb_prepare() {
    [[ $(uname -m) == x86_64 ]] ||
        die "DynamoDB Local has no native SQLite for $(uname -m) on Linux: use LOCAL=docker on this machine"
    mkdir -p "$DATA/dynamodb"
}

dynamodb_command() {
    COMMAND=("$JAVA" -Xms64m -Xmx384m -XX:+ExitOnOutOfMemoryError
        "-Dlog4j2.configurationFile=$NATIVE/log4j2.properties"
        "-Djava.library.path=$LIB/dynamodb"
        "-Ddynamodb.port=$DYNAMODB_PORT" "-Ddynamodb.data=$DATA/dynamodb"
        -cp "$LIB/dynamodb/*" org.eclipse.jetty.xml.XmlConfiguration "$NATIVE/dynamodb.xml")
}

# Lists tables. Neither DynamoDB Local nor LocalStack verifies a signature; both want one to be there.
dynamodb_healthy() {
    curl --noproxy '*' -fs -m 3 "http://127.0.0.1:$DYNAMODB_PORT/" \
        -H 'Content-Type: application/x-amz-json-1.0' -H 'X-Amz-Target: DynamoDB_20120810.ListTables' \
        -H "Authorization: AWS4-HMAC-SHA256 Credential=local/20260101/$AWS_REGION/dynamodb/aws4_request, SignedHeaders=host, Signature=0" \
        -d '{}' 2>/dev/null | grep -q TableNames
}
