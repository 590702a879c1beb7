use super::*;
use crate::ledger::LedgerError;

#[sqlx::test(migrations = "./migrations")]
async fn a_new_partition_starts_at_zero_and_a_known_one_where_it_stands(pool: PgPool) {
    let ledger = ledger(pool).await;
    let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
    let partitions = [(Arc::clone(&b), 1), (Arc::clone(&a), 0), (b, 0)];
    let positions = ledger.assign_offsets(GROUP, &partitions).await.unwrap();
    assert_eq!(positions.iter().map(|p| (&*p.topic, p.partition)).collect::<Vec<_>>(), [("b", 1), ("a", 0), ("b", 0)]);
    assert!(positions.iter().all(|p| p.next_offset == 0));

    let step = OffsetMove { topic: a, partition: 0, expected: 0, next: 7 };
    let passed = Batch { group: GROUP.into(), entries: vec![], offsets: vec![step] };
    ledger.stage(&passed).await.unwrap().commit().await.unwrap();
    let positions = ledger.assign_offsets(GROUP, &partitions).await.unwrap();
    assert_eq!(positions.iter().map(|p| p.next_offset).collect::<Vec<_>>(), [0, 7, 0]);
    assert_eq!(ledger.assign_offsets("others", &partitions).await.unwrap()[1].next_offset, 0);
    assert!(ledger.assign_offsets(GROUP, &[]).await.unwrap().is_empty());
}

#[sqlx::test(migrations = "./migrations")]
async fn a_batch_that_starts_elsewhere_leaves_nothing(pool: PgPool) {
    let ledger = ledger(pool).await;
    let first = batch(&ledger, 0, &[hold(1, "alice", &[1])]).await;
    ledger.stage(&first).await.unwrap().commit().await.unwrap();
    let before = contents(&ledger).await;

    // The same step again; one of two partitions; a partition nobody was assigned; two steps of one partition.
    let mut other = first.clone();
    other.entries[0].command = hold(2, "bob", &[2]);
    let mut half = batch(&ledger, 1, &[hold(2, "bob", &[2])]).await;
    half.offsets.extend(first.offsets.clone());
    let mut unassigned = half.clone();
    unassigned.offsets = vec![OffsetMove { topic: TOPIC.into(), partition: 9, expected: 0, next: 1 }];
    let mut twice = batch(&ledger, 1, &[hold(2, "bob", &[2])]).await;
    twice.offsets.push(twice.offsets[0].clone());
    for stale in [first, other, half, unassigned, twice] {
        let error = ledger.stage(&stale).await.unwrap_err();
        assert!(matches!(error, LedgerError::Stale { .. }) && !error.is_transient(), "{error}");
    }
    assert_eq!(contents(&ledger).await, before);
    let positions = ledger.assign_offsets(GROUP, &[(TOPIC.into(), 0), (TOPIC.into(), 1)]).await.unwrap();
    assert_eq!(positions.iter().map(|p| p.next_offset).collect::<Vec<_>>(), [1, 0]);
}

#[sqlx::test(migrations = "./migrations")]
async fn what_is_not_committed_is_not_there(pool: PgPool) {
    let ledger = ledger(pool).await;
    let batch = batch(&ledger, 0, &[hold(1, "alice", &[1]), cancel(100, 1, "alice")]).await;
    drop(ledger.stage(&batch).await.unwrap());
    assert_eq!(contents(&ledger).await, Contents::default());
    let applied = ledger.stage(&batch).await.unwrap().commit().await.unwrap();
    assert_eq!(effects(&applied), [Effect::Recorded, Effect::Cancelled]);
    assert_eq!(pending(&ledger).await, [(1, 1, vec![1])]);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_sale_must_be_known_before_its_holds(pool: PgPool) {
    let ledger = ledger(pool).await;
    let commands = [hold(1, "alice", &[1]), hold_in("new", 2, "bob", &[1]), hold_in("another", 3, "bob", &[1])];
    let batch = batch(&ledger, 0, &commands).await;
    let error = ledger.stage(&batch).await.unwrap_err();
    let LedgerError::UnknownSale(unknown) = &error else { panic!("{error}") };
    assert_eq!(unknown.iter().map(SaleId::as_str).collect::<Vec<_>>(), ["another", "new"]);
    assert!(!error.is_transient());
    assert_eq!(contents(&ledger).await, Contents::default());

    for id in ["new", "another"] {
        ledger.insert_sale(&sale(id)).await.unwrap();
    }
    let applied = ledger.stage(&batch).await.unwrap().commit().await.unwrap();
    assert_eq!(effects(&applied), [Effect::Recorded; 3]);
    // The same number in three sales is three units.
    assert_eq!(contents(&ledger).await.units.len(), 3);
}

#[sqlx::test(migrations = "./migrations")]
async fn errors_that_pass_are_told_from_those_that_do_not(pool: PgPool) {
    for (state, transient) in [
        ("57P01", true),  // admin_shutdown
        ("57P03", true),  // cannot_connect_now
        ("40001", true),  // serialization_failure
        ("40P01", true),  // deadlock_detected
        ("53300", true),  // too_many_connections
        ("08006", true),  // connection_failure
        ("25006", true),  // read_only_sql_transaction
        ("57P04", false), // database_dropped
        ("23505", false), // unique_violation
        ("23502", false), // not_null_violation
        ("22003", false), // numeric_value_out_of_range
        ("42P01", false), // undefined_table
    ] {
        let raise = format!("do $$ begin raise exception using errcode = '{state}'; end $$");
        let error: LedgerError = sqlx::raw_sql(sqlx::AssertSqlSafe(raise)).execute(&pool).await.unwrap_err().into();
        assert_eq!(error.is_transient(), transient, "{state}: {error}");
        assert_eq!(error.is_about_data(), state.starts_with('2') && !transient, "{state}: {error}");
    }
    // A server that is not there.
    let options = sqlx::postgres::PgPoolOptions::new().acquire_timeout(Duration::from_millis(200));
    let error: LedgerError = options.connect("postgres://nobody@127.0.0.1:1/none").await.unwrap_err().into();
    assert!(error.is_transient(), "{error}");
}

#[sqlx::test]
async fn the_schema_is_made_once_and_connections_are_set_up(
    _: sqlx::postgres::PgPoolOptions,
    options: sqlx::postgres::PgConnectOptions,
) {
    let url = std::env::var("DATABASE_URL").unwrap();
    let (server, _) = url.rsplit_once('/').unwrap();
    let ledger = Ledger::connect(&format!("{server}/{}", options.get_database().unwrap()), 2).await.unwrap();
    ledger.migrate().await.unwrap();
    ledger.migrate().await.unwrap();
    ledger.insert_sale(&sale("demo")).await.unwrap();
    assert_eq!(effects(&apply(&ledger, &[hold(1, "alice", &[1])]).await), [Effect::Recorded]);
    for (setting, value) in [
        ("synchronous_commit", "on"),
        ("idle_in_transaction_session_timeout", "1min"),
        ("plan_cache_mode", "force_custom_plan"),
    ] {
        let row = sqlx::query("select current_setting($1)").bind(setting).fetch_one(ledger.pool()).await.unwrap();
        assert_eq!(row.get::<&str, _>(0), value, "{setting}");
    }
    ledger.pool().close().await;
}
