//! An isolated Onsale: gateway and stream-processor as compiled, with a ledger, topics, tables and ports of their own.

use crate::{Api, DeadRecord, PATIENCE, Process, eventually, log, program, settings};
use onsale_testkit::{RedisServer, RedisSetup};
use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection, PgPool, Row, postgres::PgPoolOptions};
use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
};
use tempfile::TempDir;

/// How a [`Stack`] differs from what runs locally.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A Redis of its own, to be killed and emptied, instead of the shared one.
    pub own_redis: bool,
    /// Further settings of gateway and processor.
    pub settings: Vec<(&'static str, &'static str)>,
}

impl Options {
    /// Times so short that what they govern can be waited for. The processor waits longer for the functions than these
    /// may take, as it must. On a busy machine a request may come to nothing: insist.
    pub fn impatient() -> Self {
        let settings = vec![
            ("KAFKA_DELIVERY_TIMEOUT_MS", "2000"),
            ("ONSALE_DEADLINE_MS", "2500"),
            ("DELIVERY_DEADLINE_MS", "3500"),
            ("RELAY_AFTER_MS", "500"),
            ("LEADER_INTERVAL_MS", "50"),
        ];
        Self { own_redis: false, settings }
    }
}

/// A running Onsale. Clones are the same one; it ends with the last of them.
#[derive(Clone)]
pub struct Stack(Arc<Inner>);

struct Inner {
    name: String,
    /// Settings of its programs; nothing else is in their environment.
    environment: BTreeMap<String, String>,
    logs: Mutex<Option<TempDir>>,
    failed: AtomicBool,
    gateway: Mutex<Option<Gateway>>,
    processors: Mutex<Vec<Processor>>,
    redis: Option<Mutex<RedisServer>>,
}

struct Processor {
    url: String,
    process: Process,
}

/// A gateway; killed when dropped.
pub struct Gateway {
    url: String,
    /// The program.
    pub process: Process,
}

impl Gateway {
    /// A client of it.
    pub fn api(&self) -> Api {
        Api::new(&self.url)
    }
}

/// A reservation as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRow {
    /// `<saleId>.<uuid>`
    pub id: String,
    /// Whose it is.
    pub user: String,
    /// 0 held, 1 confirmed, 2 cancelled, 3 expired, 4 rejected.
    pub state: i16,
    /// Its units as sold.
    pub units: Vec<u64>,
    /// The units it owns now.
    pub owns: Vec<u64>,
}

static SHARED: tokio::sync::Mutex<Weak<Inner>> = tokio::sync::Mutex::const_new(Weak::new());

impl Stack {
    /// The one that all tests share which break nothing and keep to sales of their own. It starts with the first and
    /// ends with the last of them.
    pub async fn shared() -> Self {
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return Self(running);
        }
        let started = Self::start(Options::default()).await;
        *shared = Arc::downgrade(&started.0);
        started
    }

    /// Starts one and waits until it is healthy.
    pub async fn start(options: Options) -> Self {
        let name = uuid::Uuid::now_v7().simple().to_string()[20..].to_owned();
        let mut environment = settings();
        let own = [
            ("DATABASE_URL", with_database(&environment["DATABASE_URL"], &format!("onsale_test_{name}"))),
            ("TOPIC_PREFIX", format!("test-{name}-")),
            ("TABLE_PREFIX", format!("test-{name}-")),
            ("KAFKA_GROUP", format!("test-{name}")),
            ("KAFKA_PARTITIONS", "4".to_owned()),
            // However busy the machine: no request fails because it took long, unless a test wants that.
            ("REDIS_TIMEOUT_MS", "20000".to_owned()),
            ("DYNAMODB_TIMEOUT_MS", "20000".to_owned()),
            ("KAFKA_DELIVERY_TIMEOUT_MS", "30000".to_owned()),
            ("ONSALE_DEADLINE_MS", "40000".to_owned()),
            ("DELIVERY_DEADLINE_MS", "50000".to_owned()),
            ("PATH", std::env::var("PATH").unwrap_or_default()),
        ];
        environment.extend(own.map(|(name, value)| (name.to_owned(), value)));
        environment.extend(options.settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let redis = options.own_redis.then(|| {
            let server = RedisServer::start(RedisSetup { durable: true, ..RedisSetup::default() });
            let server = server.expect("a redis-server");
            environment.insert("REDIS_URL".into(), server.url());
            Mutex::new(server)
        });
        let stack = Self(Arc::new(Inner {
            name,
            environment,
            logs: Mutex::new(Some(TempDir::with_prefix("onsale-test-").expect("a temporary folder"))),
            failed: AtomicBool::new(false),
            gateway: Mutex::default(),
            processors: Mutex::default(),
            redis,
        }));
        let create = format!("create database {}", stack.database());
        let mut admin = stack.server().await.expect(
            "the stores must run: localstack/cloud up-services, or make test, which starts and stops them itself",
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(&mut admin).await.expect("a database");
        stack.start_processor().await;
        let gateway = stack.gateway(&[]).await;
        *lock(&stack.0.gateway) = Some(gateway);
        stack
    }

    /// A client of its gateway.
    pub fn api(&self) -> Api {
        lock(&self.0.gateway).as_ref().expect("the gateway runs").api()
    }

    /// Starts another gateway with other settings.
    pub async fn gateway(&self, other: &[(&str, &str)]) -> Gateway {
        let (url, process) = self.launch("gateway", &[], "GATEWAY_ADDR", other).await;
        Gateway { url, process }
    }

    /// Starts a processor; further ones share the partitions with those that run.
    pub async fn start_processor(&self) {
        let (url, process) = self.launch("stream-processor", &["run"], "PROCESSOR_ADDR", &[]).await;
        lock(&self.0.processors).push(Processor { url, process });
    }

    /// Kills the oldest processor as a crash would (SIGKILL).
    pub fn kill_processor(&self) {
        lock(&self.0.processors).remove(0).process.kill();
    }

    /// Stops the oldest processor as a deployment would (SIGTERM) and waits until it has finished what it began.
    pub async fn stop_processor(&self) {
        let mut oldest = lock(&self.0.processors).remove(0);
        let status = oldest.process.stop().await;
        assert!(status.success(), "the processor ended with {status}");
    }

    async fn launch(&self, name: &str, arguments: &[&str], address: &str, other: &[(&str, &str)]) -> (String, Process) {
        let mut environment = self.0.environment.clone();
        environment.extend(other.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let at = format!("127.0.0.1:{}", free_port());
        environment.insert(address.to_owned(), at.clone());
        let file = format!("{name}-{}.log", at.rsplit_once(':').map_or("", |(_, port)| port));
        let mut process = Process::start(&program(name), arguments, &environment, self.logs().join(file));
        let url = format!("http://{at}");
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        eventually(&format!("{name} is healthy"), async || {
            assert!(process.ended().is_none(), "{name} did not start: {}", process.said());
            http.get(format!("{url}/health")).send().await?.error_for_status()
        })
        .await;
        (url, process)
    }

    /// The environment of its programs, for one more of them.
    pub fn environment(&self) -> BTreeMap<String, String> {
        self.0.environment.clone()
    }

    /// Where its programs write their logs. Kept if a test fails.
    pub fn logs(&self) -> PathBuf {
        lock(&self.0.logs).as_ref().expect("a folder").path().to_owned()
    }

    /// A sale id that nobody else uses: the shared Redis has the sales of all.
    pub fn sale(&self, label: &str) -> String {
        format!("{label}-{}", self.0.name)
    }

    /// Its own Redis, where it has one.
    pub fn own_redis(&self) -> MutexGuard<'_, RedisServer> {
        lock(self.0.redis.as_ref().expect("Options::own_redis"))
    }

    /// A connection to the Redis it uses.
    pub fn redis(&self) -> redis::Connection {
        let client = redis::Client::open(self.0.environment["REDIS_URL"].as_str()).expect("an address");
        client.get_connection().expect("redis answers")
    }

    /// Its ledger.
    pub fn ledger(&self) -> PgPool {
        let pool = PgPoolOptions::new().max_connections(2).acquire_timeout(PATIENCE);
        pool.connect_lazy(&self.0.environment["DATABASE_URL"]).expect("an address")
    }

    /// Every reservation of a sale in the ledger, oldest first.
    pub async fn reservations(&self, sale: &str) -> Vec<LedgerRow> {
        let numbers = |list: Vec<i32>| list.into_iter().map(|n| u64::try_from(n).expect("a number")).collect();
        let query = "select r.id, r.user_id, r.state, r.units, \
                            array(select u.number from unit u where u.reservation_id = r.id order by u.number) as owns \
                     from reservation r where r.sale_id = $1 order by r.id";
        let rows = sqlx::query(query).bind(sale).fetch_all(&self.ledger()).await.expect("the ledger answers");
        rows.into_iter()
            .map(|row| LedgerRow {
                id: format!("{sale}.{}", row.get::<uuid::Uuid, _>("id")),
                user: row.get("user_id"),
                state: row.get("state"),
                units: numbers(row.get("units")),
                owns: numbers(row.get("owns")),
            })
            .collect()
    }

    /// Fails the test, with what they said last, if a program has ended that nobody ended.
    fn all_run(&self) {
        let check = |process: &mut Process| {
            let ended = process.ended();
            assert!(ended.is_none(), "a program ended by itself: {}", process.said());
        };
        lock(&self.0.processors).iter_mut().for_each(|p| check(&mut p.process));
        lock(&self.0.gateway).iter_mut().for_each(|g| check(&mut g.process));
    }

    /// The report of a running processor's audit of one sale.
    pub async fn audit(&self, sale: &str) -> Value {
        self.all_run();
        let url = lock(&self.0.processors).last().expect("a processor runs").url.clone();
        Api::new(url).get(&format!("/audit?sale={sale}")).await.is(200)
    }

    /// The audit on the command line: its exit code, and what it printed.
    pub async fn audit_command(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(program("stream-processor"));
        command.arg("audit").args(arguments).env_clear().envs(&self.0.environment);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("a thread");
        let output = output.expect("the audit runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.is_empty(), "the audit complains: {said}");
        (output.status.code().expect("an exit code"), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until nothing of the sale is on its way any more, and the audit is clean.
    pub async fn wait_clean(&self, sale: &str) -> Value {
        eventually(&format!("the audit of {sale} is clean"), async || {
            let report = self.audit(sale).await;
            let of_sale = &report["sales"][0];
            let settled = of_sale["pendingCommands"] == 0 && of_sale["returning"] == 0;
            if settled && report["clean"] == true { Ok(report) } else { Err(report) }
        })
        .await
    }

    /// Waits until the ledger has a reservation, as its owner is told; then how it stands.
    pub async fn wait_recorded(&self, user: &str, id: &str) -> Value {
        self.wait_reservation(user, id, |r| r["recorded"] == true).await
    }

    /// Waits until a reservation of the user's stands like this; then the whole.
    pub async fn wait_state(&self, user: &str, id: &str, state: &str) -> Value {
        self.wait_reservation(user, id, |r| r["state"] == state).await
    }

    async fn wait_reservation(&self, user: &str, id: &str, as_wanted: impl Fn(&Value) -> bool) -> Value {
        let api = self.api();
        eventually(&format!("{id} has come so far"), async || {
            self.all_run();
            let reservation = api.reservation(user, id).await;
            let wanted = reservation.status == 200 && as_wanted(&reservation.json());
            if wanted { Ok(reservation.json()) } else { Err(reservation) }
        })
        .await
    }

    /// Waits until this many units are free, and the sale says so.
    pub async fn wait_available(&self, sale: &str, units: u64) {
        let api = self.api();
        // What the sale says may be a second old, and so tell of a time before this.
        eventually(&format!("{sale} has {units} units free in redis"), async || {
            let report = self.audit(sale).await;
            if report["sales"][0]["free"] == units { Ok(()) } else { Err(report) }
        })
        .await;
        eventually(&format!("{sale} has {units} units free"), async || {
            let answer = api.sale(sale).await;
            let as_wanted = answer.status == 200 && answer.json()["available"] == units;
            if as_wanted { Ok(()) } else { Err(answer) }
        })
        .await;
    }

    /// Writes records into the topic `name` as nobody should; gives back where they went (partition, offset).
    pub async fn write_to_log(&self, name: &str, records: &[(Option<&str>, &[u8])]) -> Vec<(i32, i64)> {
        log::write(&self.0.environment["KAFKA_BROKERS"], &self.topic(name), records).await
    }

    /// The dead letters of the topic `name`, once `enough` says that all are there.
    pub async fn dead_letters(&self, name: &str, enough: impl Fn(&[DeadRecord]) -> bool) -> Vec<DeadRecord> {
        log::read(&self.0.environment["KAFKA_BROKERS"], &format!("{}.dlt", self.topic(name)), enough).await
    }

    /// The full name of a topic.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.0.environment["TOPIC_PREFIX"])
    }

    fn database(&self) -> String {
        format!("onsale_test_{}", self.0.name)
    }

    async fn server(&self) -> sqlx::Result<PgConnection> {
        PgConnection::connect(&settings()["DATABASE_URL"]).await
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.0.failed.swap(true, Ordering::Relaxed) {
            eprintln!("the logs of gateway and processor are kept in {}", self.logs().display());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        lock(&self.gateway).take();
        lock(&self.processors).clear();
        if *self.failed.get_mut()
            && let Some(folder) = lock(&self.logs).take()
        {
            let _ = folder.keep();
        }
        // What is left in the stores harms nobody, so a failure to clear it away fails no test. A thread of its own,
        // because this may run within a runtime.
        std::thread::scope(|scope| {
            let clear = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                if let Ok(runtime) = runtime {
                    let _ = runtime.block_on(async { tokio::time::timeout(PATIENCE, self.clear()).await });
                }
            };
            let _ = scope.spawn(clear).join();
        });
    }
}

impl Inner {
    async fn clear(&self) {
        if let Ok(mut admin) = PgConnection::connect(&settings()["DATABASE_URL"]).await {
            let drop = format!("drop database if exists onsale_test_{} with (force)", self.name);
            let _ = admin.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(drop))).await;
        }
        let prefix = &self.environment["TOPIC_PREFIX"];
        let topics = ["reservation", "reservation.dlt"].map(|topic| format!("{prefix}{topic}"));
        log::delete(&self.environment["KAFKA_BROKERS"], &topics.each_ref().map(String::as_str)).await;
        self.delete_tables().await;
        if self.redis.is_none() {
            let _ = self.delete_keys();
        }
    }

    /// Local stores check no signature, so one call needs no client.
    async fn delete_tables(&self) {
        let Ok(http) = reqwest::Client::builder().no_proxy().build() else { return };
        let (key, region) = (&self.environment["AWS_ACCESS_KEY_ID"], &self.environment["AWS_REGION"]);
        let credential = format!("{key}/20260101/{region}/dynamodb/aws4_request");
        for table in ["sales", "outcomes"] {
            let name = format!("{}{table}", self.environment["TABLE_PREFIX"]);
            let _ = http
                .post(&self.environment["AWS_ENDPOINT_URL_DYNAMODB"])
                .header("x-amz-target", "DynamoDB_20120810.DeleteTable")
                .header("content-type", "application/x-amz-json-1.0")
                .header(
                    "authorization",
                    format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0"),
                )
                .body(serde_json::json!({ "TableName": name }).to_string())
                .send()
                .await;
        }
    }

    fn delete_keys(&self) -> redis::RedisResult<()> {
        let mut redis = redis::Client::open(self.environment["REDIS_URL"].as_str())?.get_connection()?;
        let mut cursor = 0_u64;
        loop {
            let pattern = format!("onsale:{{*-{}}}:*", self.name);
            let (next, keys): (u64, Vec<String>) =
                redis::cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1000).query(&mut redis)?;
            if !keys.is_empty() {
                redis::cmd("UNLINK").arg(keys).exec(&mut redis)?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}

/// A test that failed while it held a lock has told so already.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same server, another database.
fn with_database(url: &str, database: &str) -> String {
    let (address, options) = url.split_once('?').map_or((url, String::new()), |(a, o)| (a, format!("?{o}")));
    let (server, _) = address.rsplit_once('/').expect("DATABASE_URL ends in /<database>");
    format!("{server}/{database}{options}")
}

/// A port nobody listens on, below those the kernel gives out to connections: one of these could take it before the
/// program does.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two test programs at a time start at different places.
    let start = 20_000 + u16::try_from(std::process::id() % 8_000).unwrap_or_default();
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| 20_000 + (start - 20_000 + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000)
        .take(12_000)
        .find(free)
        .expect("a free port")
}
