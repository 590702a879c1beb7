use super::*;

#[sqlx::test(migrations = "./migrations")]
async fn returns_come_out_by_sale_in_order_until_they_are_marked(pool: PgPool) {
    let ledger = ledger(pool).await;
    ledger.insert_sale(&sale("other")).await.unwrap();
    let mut commands = Vec::new();
    for n in 1..=4 {
        commands.push(hold(n, "alice", &[u32::try_from(n).unwrap()]));
        commands.push(hold_in("other", 10 + n, "bob", &[u32::try_from(n).unwrap()]));
    }
    // Two sales interleaved, in an order that is not that of the ids.
    for n in [3, 1, 4, 2] {
        commands.push(cancel(100 + n, n, "alice"));
        commands.push(cancel_in("other", 110 + n, 10 + n, "bob"));
    }
    apply(&ledger, &commands).await;

    let seen = |returns: &[crate::ledger::UnitReturn]| -> Vec<(String, i64, u128)> {
        returns.iter().map(|r| (r.reservation.sale.to_string(), r.seq, r.reservation.uuid.as_u128())).collect()
    };
    let demo = |seq, id| ("demo".to_owned(), seq, id);
    let other = |seq, id| ("other".to_owned(), seq, id);
    let returns = ledger.pending_returns(100).await.unwrap();
    assert_eq!(
        seen(&returns),
        [demo(1, 3), demo(2, 1), demo(3, 4), demo(4, 2), other(1, 13), other(2, 11), other(3, 14), other(4, 12)]
    );
    assert_eq!((returns[0].user.as_str(), &returns[0].units), ("alice", &vec![3]));

    // Each sale has its own share of what is read.
    assert_eq!(seen(&ledger.pending_returns(2).await.unwrap()), [demo(1, 3), demo(2, 1), other(1, 13), other(2, 11)]);
    assert_eq!(ledger.mark_returned(&sale("demo").id, 3).await.unwrap(), 3);
    assert_eq!(ledger.mark_returned(&sale("demo").id, 3).await.unwrap(), 0);
    assert_eq!(seen(&ledger.pending_returns(2).await.unwrap()), [demo(4, 2), other(1, 13), other(2, 11)]);
    assert_eq!(ledger.sale(&sale("demo").id).await.unwrap().unwrap().return_seq, 4);
}

#[sqlx::test(migrations = "./migrations")]
async fn an_outcome_leaves_the_queue_only_at_the_version_that_was_written(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1]), hold(2, "bob", &[2]), cancel(100, 1, "alice"), cancel(101, 2, "bob")])
        .await;
    let outcomes = ledger.next_outcomes(10).await.unwrap();
    assert_eq!(outcomes.iter().map(|r| (r.id.uuid.as_u128(), r.version)).collect::<Vec<_>>(), [(1, 2), (2, 2)]);
    assert_eq!((outcomes[0].state, outcomes[0].ended_at), (ReservationState::Cancelled, Some(moment(100))));
    assert_eq!(ledger.next_outcomes(1).await.unwrap().len(), 1);

    // One changes again while its former state is being written.
    let mut connection = ledger.pool().acquire().await.unwrap();
    sqlx::query("update reservation set version = 3 where id = $1")
        .bind(uuid(2))
        .execute(&mut *connection)
        .await
        .unwrap();
    crate::ledger::outcome_queue::enqueue(&mut connection, &[(uuid(2), 3)]).await.unwrap();
    assert_eq!(ledger.outcome_written(&[(uuid(1), 2), (uuid(2), 2), (uuid(9), 1)]).await.unwrap(), 1);
    let outcomes = ledger.next_outcomes(10).await.unwrap();
    assert_eq!(outcomes.iter().map(|r| (r.id.uuid.as_u128(), r.version)).collect::<Vec<_>>(), [(2, 3)]);
    assert_eq!(ledger.outcome_written(&[(uuid(2), 3)]).await.unwrap(), 1);
    assert!(ledger.next_outcomes(10).await.unwrap().is_empty());
}

#[sqlx::test(migrations = "./migrations")]
async fn a_change_that_is_about_to_commit_is_not_taken_off_the_queue(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1]), cancel(100, 1, "alice")]).await;
    let mut changing = ledger.pool().begin().await.unwrap();
    sqlx::query("update reservation set version = 3").execute(&mut *changing).await.unwrap();
    crate::ledger::outcome_queue::enqueue(&mut changing, &[(uuid(1), 3)]).await.unwrap();
    let writer = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.outcome_written(&[(uuid(1), 2)]).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    changing.commit().await.unwrap();
    assert_eq!(writer.await.unwrap(), 0);
    assert_eq!(ledger.next_outcomes(10).await.unwrap()[0].version, 3);
}
