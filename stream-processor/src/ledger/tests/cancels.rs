use super::*;

#[sqlx::test(migrations = "./migrations")]
async fn a_cancel_frees_the_units_once(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1, 2]), hold(2, "bob", &[3])]).await;
    let applied = apply(&ledger, &[cancel(100, 1, "alice")]).await;
    assert_eq!(effects(&applied), [Effect::Cancelled]);
    assert_eq!((applied.settled[0].command_id, applied.settled[0].version), (uuid(100), 2));
    let after = contents(&ledger).await;
    let cancelled = &after.reservations[&1];
    assert_eq!((cancelled.state, cancelled.version), (ReservationState::Cancelled, 2));
    assert_eq!((cancelled.ended_at, &cancelled.units), (Some(moment(100)), &vec![1, 2]));
    assert_eq!(owners(&ledger).await, [(3, 2)]);
    assert_eq!(pending(&ledger).await, [(1, 1, vec![1, 2])]);
    assert_eq!(after.outcomes, BTreeMap::from([(1, 2)]));
    assert_eq!(after.commands, BTreeMap::from([(100, (1, "cancelled".to_owned()))]));

    // The same record again, then another cancel of what has ended.
    let applied = apply(&ledger, &[cancel(100, 1, "alice")]).await;
    assert_eq!((effects(&applied), applied.settled[0].state), (vec![Effect::Duplicate], ReservationState::Cancelled));
    assert_eq!(contents(&ledger).await, after);
    let applied = apply(&ledger, &[cancel(101, 1, "alice")]).await;
    assert_eq!((effects(&applied), applied.settled[0].version), (vec![Effect::NoEffect], 2));
    let mut expected = after;
    expected.commands.insert(101, (1, "no-effect".to_owned()));
    assert_eq!(contents(&ledger).await, expected);
    assert_consistent(&ledger).await;
}

#[sqlx::test(migrations = "./migrations")]
async fn only_the_owner_cancels_and_only_what_there_is(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1])]).await;
    let before = contents(&ledger).await;
    let applied =
        apply(&ledger, &[cancel(100, 1, "bob"), cancel(101, 7, "alice"), cancel_in("other", 102, 1, "alice")]).await;
    assert_eq!(
        refusals(&applied),
        [(0, Refusal::NotTheOwner), (1, Refusal::UnknownReservation), (2, Refusal::UnknownReservation)]
    );
    assert_eq!(contents(&ledger).await, before);
    // A refused command is not taken: its id is still free.
    assert_eq!(effects(&apply(&ledger, &[cancel(100, 1, "alice")]).await), [Effect::Cancelled]);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_command_id_is_of_one_reservation(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1]), hold(2, "alice", &[2]), hold(3, "alice", &[3])]).await;
    let applied = apply(&ledger, &[cancel(100, 1, "alice"), cancel(100, 2, "alice")]).await;
    assert_eq!(refusals(&applied), [(1, Refusal::ConflictingDuplicate)]);
    let applied = apply(&ledger, &[cancel(100, 3, "alice")]).await;
    assert_eq!(refusals(&applied), [(0, Refusal::ConflictingDuplicate)]);
    assert_eq!(owners(&ledger).await, [(2, 2), (3, 3)]);
}

#[sqlx::test(migrations = "./migrations")]
async fn commands_on_one_reservation_meet_in_the_order_of_the_log(pool: PgPool) {
    let ledger = ledger(pool).await;
    let applied = apply(
        &ledger,
        &[
            hold(1, "alice", &[1, 2]),
            cancel(100, 1, "alice"),
            hold(1, "alice", &[1, 2]),
            cancel(101, 1, "alice"),
            cancel(100, 1, "alice"),
            cancel(102, 2, "bob"),
            hold(2, "bob", &[2]),
        ],
    )
    .await;
    assert_eq!(
        effects(&applied),
        [Effect::Recorded, Effect::Cancelled, Effect::Duplicate, Effect::NoEffect, Effect::Duplicate, Effect::Recorded]
    );
    let stood: Vec<_> = applied.settled.iter().map(|s| (s.state, s.version)).collect();
    assert_eq!(stood[0], (ReservationState::Held, 1));
    assert_eq!(stood[1..5], [(ReservationState::Cancelled, 2); 4]);
    // Before its hold, a reservation is unknown.
    assert_eq!(refusals(&applied), [(5, Refusal::UnknownReservation)]);
    assert_eq!(owners(&ledger).await, [(2, 2)]);
    assert_eq!(pending(&ledger).await, [(1, 1, vec![1])]);
    assert_eq!(contents(&ledger).await.outcomes, BTreeMap::from([(1, 2)]));
    assert_consistent(&ledger).await;
}

#[sqlx::test(migrations = "./migrations")]
async fn a_unit_changes_hands_within_a_batch(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1]), hold(2, "bob", &[2])]).await;
    let applied = apply(
        &ledger,
        &[
            cancel(100, 1, "alice"),
            hold(3, "carol", &[1]),
            // Before bob gives it up, and after.
            hold(4, "dave", &[2]),
            cancel(101, 2, "bob"),
            hold(5, "erin", &[2]),
        ],
    )
    .await;
    assert_eq!(
        effects(&applied),
        [Effect::Cancelled, Effect::Recorded, Effect::Rejected, Effect::Cancelled, Effect::Recorded]
    );
    assert_eq!(owners(&ledger).await, [(1, 3), (2, 5)]);
    assert_consistent(&ledger).await;
}

#[sqlx::test(migrations = "./migrations")]
async fn a_rejected_reservation_has_nothing_to_cancel(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1]), hold(2, "bob", &[1, 2])]).await;
    let applied = apply(&ledger, &[cancel(100, 2, "bob")]).await;
    assert_eq!((effects(&applied), applied.settled[0].state), (vec![Effect::NoEffect], ReservationState::Rejected));
    assert_eq!(pending(&ledger).await, [(1, 2, vec![2])]);
    assert_eq!(owners(&ledger).await, [(1, 1)]);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_confirmed_reservation_gives_its_units_back_too(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1])]).await;
    sqlx::query("update reservation set state = 1, version = 2").execute(ledger.pool()).await.unwrap();
    let applied = apply(&ledger, &[cancel(100, 1, "alice")]).await;
    assert_eq!((effects(&applied), applied.settled[0].version), (vec![Effect::Cancelled], 3));
    assert_eq!(owners(&ledger).await, []);
    assert_eq!(pending(&ledger).await, [(1, 1, vec![1])]);
}

#[sqlx::test(migrations = "./migrations")]
async fn drift_does_not_stop_a_cancel_and_takes_nothing_from_others(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1, 2]), hold(2, "bob", &[3])]).await;
    sqlx::query("update unit set reservation_id = $1 where number = 2")
        .bind(uuid(2))
        .execute(ledger.pool())
        .await
        .unwrap();
    let applied = apply(&ledger, &[cancel(100, 1, "alice"), hold(3, "carol", &[2])]).await;
    assert_eq!(effects(&applied), [Effect::Cancelled, Effect::Rejected]);
    assert_eq!(owners(&ledger).await, [(2, 2), (3, 2)]);
    assert_eq!(pending(&ledger).await, [(1, 1, vec![1]), (2, 3, vec![])]);
}
