use super::*;

#[sqlx::test(migrations = "./migrations")]
async fn a_batch_of_holds_goes_in_as_it_is(pool: PgPool) {
    let ledger = ledger(pool).await;
    let applied = apply(&ledger, &[hold(1, "alice", &[1, 3]), hold(2, "bob", &[2]), hold(3, "alice", &[10])]).await;
    assert_eq!(effects(&applied), [Effect::Recorded; 3]);
    assert_eq!((applied.counts.recorded, applied.counts.refused), (3, 0));
    let first = &applied.settled[0];
    assert_eq!((first.command_id, first.state, first.version), (uuid(1), ReservationState::Held, 1));
    assert_eq!(owners(&ledger).await, [(1, 1), (2, 2), (3, 1), (10, 3)]);

    let row = ledger.reservation(&reservation_id("demo", 1)).await.unwrap().unwrap();
    let Command::Hold(sent) = hold(1, "alice", &[1, 3]) else { unreachable!() };
    assert_eq!((row.id, row.user_id, row.units), (sent.reservation_id, sent.user_id, sent.units));
    assert_eq!((row.amount, row.held_at, row.expires_at), (sent.amount, sent.occurred_at, sent.expires_at));
    assert_eq!((row.state, row.version, row.epoch), (ReservationState::Held, 1, 1));
    assert_eq!((row.ended_at, row.reason), (None, None));
    assert_eq!(ledger.reservation(&reservation_id("other", 1)).await.unwrap(), None);

    let contents = contents(&ledger).await;
    assert!(contents.returns.is_empty() && contents.outcomes.is_empty() && contents.commands.is_empty());
    assert_consistent(&ledger).await;
}

#[sqlx::test(migrations = "./migrations")]
async fn a_unit_with_an_owner_keeps_it(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1, 2])]).await;
    let applied = apply(&ledger, &[hold(2, "bob", &[2]), hold(3, "carol", &[3])]).await;
    assert_eq!(effects(&applied), [Effect::Rejected, Effect::Recorded]);
    assert_eq!((applied.settled[0].state, applied.settled[0].version), (ReservationState::Rejected, 1));
    assert_eq!(owners(&ledger).await, [(1, 1), (2, 1), (3, 3)]);

    // Visible, with its reason, and on its way to both the buyer's limit and the outcome.
    let contents = contents(&ledger).await;
    let rejected = &contents.reservations[&2];
    assert_eq!((rejected.state, rejected.version), (ReservationState::Rejected, 1));
    assert_eq!(rejected.reason.as_deref(), Some("unit-conflict: 2"));
    assert_eq!(rejected.ended_at, Some(moment(2)));
    assert_eq!(pending(&ledger).await, [(1, 2, vec![])]);
    assert_eq!(contents.outcomes, BTreeMap::from([(2, 1)]));
    assert_consistent(&ledger).await;
}

#[sqlx::test(migrations = "./migrations")]
async fn the_first_in_the_log_gets_the_unit(pool: PgPool) {
    let ledger = ledger(pool).await;
    // Ids against the order of the log: neither an index nor a sort may decide.
    let applied = apply(&ledger, &[hold(9, "alice", &[4]), hold(1, "bob", &[4]), hold(5, "carol", &[4])]).await;
    assert_eq!(effects(&applied), [Effect::Recorded, Effect::Rejected, Effect::Rejected]);
    assert_eq!(owners(&ledger).await, [(4, 9)]);
    assert_eq!(pending(&ledger).await, [(1, 1, vec![]), (2, 5, vec![])]);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_rejected_hold_returns_only_what_nobody_owns(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[2]), hold(2, "alice", &[4])]).await;
    apply(&ledger, &[hold(3, "bob", &[1, 2, 3, 4])]).await;
    assert_eq!(owners(&ledger).await, [(2, 1), (4, 2)]);
    assert_eq!(pending(&ledger).await, [(1, 3, vec![1, 3])]);
    assert_eq!(contents(&ledger).await.reservations[&3].reason.as_deref(), Some("unit-conflict: 2,4"));
}

#[sqlx::test(migrations = "./migrations")]
async fn every_owned_unit_is_found_also_where_the_batch_shows_only_one(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[2])]).await;
    // Of 4's units the batch itself shows that 3 is taken; that 2 is stands in the ledger alone.
    apply(&ledger, &[hold(3, "bob", &[3]), hold(4, "carol", &[1, 2, 3])]).await;
    assert_eq!(contents(&ledger).await.reservations[&4].reason.as_deref(), Some("unit-conflict: 2,3"));
    assert_eq!(pending(&ledger).await, [(1, 4, vec![1])]);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_rejected_hold_stands_in_nobodys_way(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1])]).await;
    let applied = apply(&ledger, &[hold(2, "bob", &[1, 2]), hold(3, "carol", &[2])]).await;
    assert_eq!(effects(&applied), [Effect::Rejected, Effect::Recorded]);
    assert_eq!(owners(&ledger).await, [(1, 1), (2, 3)]);
    // Written down as free when it was; by now it is carol's, and must not be sold a third time.
    assert_eq!(contents(&ledger).await.returns[&("demo".to_owned(), 1)].2, [2]);
    assert_eq!(pending(&ledger).await, [(1, 2, vec![])]);
    assert_consistent(&ledger).await;
}

#[sqlx::test(migrations = "./migrations")]
async fn a_hold_is_taken_once(pool: PgPool) {
    let ledger = ledger(pool).await;
    let again = hold(1, "alice", &[1, 2]);
    let applied = apply(&ledger, &[again.clone(), again.clone(), hold(2, "bob", &[3])]).await;
    assert_eq!(effects(&applied), [Effect::Recorded, Effect::Duplicate, Effect::Recorded]);
    let applied = apply(&ledger, &[hold(3, "carol", &[4]), again.clone(), hold(2, "bob", &[3])]).await;
    assert_eq!(effects(&applied), [Effect::Recorded, Effect::Duplicate, Effect::Duplicate]);
    assert_eq!(owners(&ledger).await, [(1, 1), (2, 1), (3, 2), (4, 3)]);

    // A copy that comes after the cancel says where the reservation stands now, and takes nothing again.
    apply(&ledger, &[cancel(100, 1, "alice")]).await;
    let before = contents(&ledger).await;
    let applied = apply(&ledger, &[again]).await;
    assert_eq!(effects(&applied), [Effect::Duplicate]);
    assert_eq!((applied.settled[0].state, applied.settled[0].version), (ReservationState::Cancelled, 2));
    assert_eq!(contents(&ledger).await, before);
    assert_consistent(&ledger).await;
}

#[sqlx::test(migrations = "./migrations")]
async fn a_copy_of_a_rejected_hold_stays_rejected(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1]), hold(2, "bob", &[1, 2])]).await;
    apply(&ledger, &[cancel(100, 1, "alice")]).await;
    let before = contents(&ledger).await;
    let applied = apply(&ledger, &[hold(2, "bob", &[1, 2])]).await;
    assert_eq!((effects(&applied), applied.settled[0].state), (vec![Effect::Duplicate], ReservationState::Rejected));
    assert_eq!(contents(&ledger).await, before);
}

#[sqlx::test(migrations = "./migrations")]
async fn the_same_id_with_other_contents_is_a_conflict(pool: PgPool) {
    let ledger = ledger(pool).await;
    ledger.insert_sale(&sale("other")).await.unwrap();
    let other_amount = |mut command: Command| {
        if let Command::Hold(hold) = &mut command {
            hold.amount.amount += 1;
        }
        command
    };
    let conflicts = [
        hold(1, "alice", &[1, 3]),
        hold(1, "bob", &[1, 2]),
        hold_in("other", 1, "alice", &[1, 2]),
        other_amount(hold(1, "alice", &[1, 2])),
    ];
    // In one batch with the first of that id, and in a later one.
    let mut commands = vec![hold(1, "alice", &[1, 2])];
    commands.extend(conflicts.clone());
    commands.push(hold(2, "bob", &[3]));
    let applied = apply(&ledger, &commands).await;
    assert_eq!(effects(&applied), [Effect::Recorded, Effect::Recorded]);
    assert_eq!(refusals(&applied), [1, 2, 3, 4].map(|entry| (entry, Refusal::ConflictingDuplicate)));
    let before = contents(&ledger).await;
    let applied = apply(&ledger, &conflicts).await;
    assert_eq!(refusals(&applied), [0, 1, 2, 3].map(|entry| (entry, Refusal::ConflictingDuplicate)));
    assert_eq!(applied.counts.refused, 4);
    assert_eq!(contents(&ledger).await, before);
}

#[sqlx::test(migrations = "./migrations")]
async fn units_that_the_sale_does_not_have_are_refused_alone(pool: PgPool) {
    let ledger = ledger(pool).await;
    let applied = apply(
        &ledger,
        &[
            hold(1, "alice", &[10, 11]),
            hold(2, "alice", &[0, 1]),
            hold(3, "alice", &[2, 2]),
            hold(4, "alice", &[3, 2]),
            hold(5, "alice", &[]),
            hold(6, "alice", &[u32::MAX]),
            hold(7, "bob", &[10]),
        ],
    )
    .await;
    assert_eq!(refusals(&applied), [0, 1, 2, 3, 4, 5].map(|entry| (entry, Refusal::UnitsOutOfRange)));
    assert_eq!(effects(&applied), [Effect::Recorded]);
    assert_eq!(owners(&ledger).await, [(10, 7)]);
    assert_eq!(contents(&ledger).await.reservations.len(), 1);
}
