use super::*;

async fn violations(ledger: &Ledger) -> Vec<String> {
    ledger.snapshot().await.unwrap().audit().await.unwrap().violations()
}

#[sqlx::test(migrations = "./migrations")]
async fn an_audit_counts_what_there_is(pool: PgPool) {
    let ledger = ledger(pool).await;
    ledger.insert_sale(&sale("empty")).await.unwrap();
    apply(
        &ledger,
        &[
            hold(1, "alice", &[1, 2]),
            hold(2, "bob", &[3]),
            hold(3, "bob", &[4]),
            cancel(100, 2, "bob"),
            hold(4, "carol", &[4, 5]),
        ],
    )
    .await;
    sqlx::query("update reservation set state = 1 where id = $1").bind(uuid(1)).execute(ledger.pool()).await.unwrap();
    let audit = ledger.snapshot().await.unwrap().audit().await.unwrap();
    assert_eq!(audit.violations(), [""; 0]);
    assert_eq!((audit.outcome_queue, audit.sales.len()), (2, 2));
    let demo = &audit.sales[0];
    assert_eq!((demo.sale.as_str(), demo.capacity, demo.per_user_limit, demo.epoch), ("demo", 10, 4, 1));
    let counts: Vec<_> = demo.by_state.iter().map(|c| (c.state, c.reservations, c.units)).collect();
    assert_eq!(
        counts,
        [
            (ReservationState::Held, 1, 1),
            (ReservationState::Confirmed, 1, 2),
            (ReservationState::Cancelled, 1, 1),
            (ReservationState::Expired, 0, 0),
            (ReservationState::Rejected, 1, 2)
        ]
    );
    assert_eq!((demo.owned_units(), demo.unit_rows, demo.highest_unit), (3, 3, 4));
    assert_eq!((demo.most_per_user, demo.over_limit), (2, 0));
    assert_eq!((demo.return_seq, demo.returns, demo.pending_returns, demo.returning_units), (2, 2, 2, 2));
    assert_eq!(demo.pending_seqs, [1, 2]);
    ledger.mark_returned(&demo.sale, 1).await.unwrap();
    let audit = ledger.snapshot().await.unwrap().audit().await.unwrap();
    let demo = &audit.sales[0];
    assert_eq!((demo.pending_returns, demo.returning_units, &demo.pending_seqs), (1, 1, &vec![2]));
}

#[sqlx::test(migrations = "./migrations")]
async fn a_snapshot_shows_one_moment(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1])]).await;
    let mut snapshot = ledger.snapshot().await.unwrap();
    apply(&ledger, &[hold(2, "bob", &[2]), cancel(100, 1, "alice")]).await;
    let states = snapshot.reservation_states(&[uuid(1), uuid(2)]).await.unwrap();
    assert_eq!(states.into_iter().collect::<Vec<_>>(), [(uuid(1), (ReservationState::Held, 1))]);
    assert_eq!(snapshot.audit().await.unwrap().sales[0].owned_units(), 1);
    drop(snapshot);
    let states = ledger.snapshot().await.unwrap().reservation_states(&[uuid(1), uuid(2)]).await.unwrap();
    assert_eq!(states[&uuid(1)], (ReservationState::Cancelled, 2));
    assert_eq!(states.len(), 2);
}

#[sqlx::test(migrations = "./migrations")]
async fn an_audit_names_what_is_wrong(pool: PgPool) {
    let ledger = ledger(pool).await;
    let sound = [hold(1, "alice", &[1, 2]), hold(2, "bob", &[3]), hold(3, "carol", &[4]), cancel(100, 3, "carol")];
    apply(&ledger, &sound).await;
    let cases = [
        ("delete from unit where number = 2", vec!["2 have an owner", "1 reservations do not own exactly"]),
        (
            "update unit set reservation_id = gen_random_uuid() where number = 3",
            vec!["1 units whose owner", "1 reservations"],
        ),
        ("update reservation set state = 2 where user_id = 'bob'", vec!["3 have an owner", "1 units whose owner"]),
        ("insert into unit select 'demo', 5, reservation_id from unit limit 1", vec!["4 have an owner", "5 of "]),
        ("update unit set number = 11 where number = 3", vec!["unit 11 is owned", "11 of", "1 reservations"]),
        ("update sale set capacity = 2", vec!["3 units are held or confirmed, its capacity is 2", "unit 3 is owned"]),
        ("update sale set per_user_limit = 1", vec!["1 users over the limit of 1: alice has 2"]),
        ("update sale set return_seq = 2", vec!["2 unit returns were numbered, the journal has 1"]),
        ("delete from sale", vec!["has reservations or units but no row"]),
    ];
    for (harm, expected) in cases {
        let told = {
            // The harm is undone with its transaction; the audit runs inside it.
            let mut transaction = ledger.pool().begin().await.unwrap();
            sqlx::query(harm).execute(&mut *transaction).await.unwrap();
            let mut snapshot = crate::ledger::Snapshot::within(transaction);
            snapshot.audit().await.unwrap().violations().join("\n")
        };
        for words in expected {
            assert!(told.contains(words), "{harm}\nis told as:\n{told}\nwithout: {words}");
        }
    }
    assert_eq!(violations(&ledger).await, [""; 0]);
}

#[sqlx::test(migrations = "./migrations")]
async fn examples_are_limited_and_counts_are_not(pool: PgPool) {
    let ledger = Ledger::from(pool);
    let big = sale_with("demo", |config| config["capacity"] = 100.into());
    ledger.insert_sale(&big).await.unwrap();
    let holds: Vec<_> = (1..=30).map(|n| hold(n, &format!("u{n}"), &[u32::try_from(n).unwrap()])).collect();
    apply(&ledger, &holds).await;
    sqlx::query("delete from unit").execute(ledger.pool()).await.unwrap();
    sqlx::query("insert into unit select 'demo', n, gen_random_uuid() from generate_series(1, 40) n")
        .execute(ledger.pool())
        .await
        .unwrap();
    let audit = ledger.snapshot().await.unwrap().audit().await.unwrap();
    let demo = &audit.sales[0];
    assert_eq!((demo.strays, demo.stray_examples.len()), (40, 20));
    assert_eq!((demo.incomplete, demo.incomplete_examples.len()), (30, 20));
}
