use super::*;
use crate::ledger::{LedgerError, Staged};
use tokio::task::JoinHandle;

fn stage(ledger: &Ledger, batch: Batch) -> JoinHandle<Result<Staged, LedgerError>> {
    let ledger = ledger.clone();
    tokio::spawn(async move { ledger.stage(&batch).await })
}

/// Waits until `staging` waits for somebody's lock.
async fn blocked(ledger: &Ledger, staging: &JoinHandle<Result<Staged, LedgerError>>) {
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    for _ in 0..200 {
        if sqlx::query(waiting).fetch_one(ledger.pool()).await.unwrap().get::<i64, _>(0) > 0 {
            return;
        }
        assert!(!staging.is_finished(), "it did not wait");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody waits");
}

#[sqlx::test(migrations = "./migrations")]
async fn of_two_owners_of_a_partition_one_commits(pool: PgPool) {
    let ledger = ledger(pool).await;
    let first = batch(&ledger, 0, &[hold(1, "alice", &[1])]).await;
    // The other owner read further: the same records and one more.
    let second = batch(&ledger, 0, &[hold(1, "alice", &[1]), hold(2, "bob", &[2])]).await;
    let staged = ledger.stage(&first).await.unwrap();
    let late = stage(&ledger, second);
    blocked(&ledger, &late).await;
    staged.commit().await.unwrap();
    assert!(matches!(late.await.unwrap(), Err(LedgerError::Stale { moves: 1, found: 0 })));
    assert_eq!(owners(&ledger).await, [(1, 1)]);
    let position = ledger.assign_offsets(GROUP, &[(TOPIC.into(), 0)]).await.unwrap().remove(0);
    assert_eq!(position.next_offset, 1);
}

#[sqlx::test(migrations = "./migrations")]
async fn an_owner_that_gives_up_leaves_the_step_to_the_other(pool: PgPool) {
    let ledger = ledger(pool).await;
    let first = batch(&ledger, 0, &[hold(1, "alice", &[1])]).await;
    let staged = ledger.stage(&first).await.unwrap();
    let late = stage(&ledger, first);
    blocked(&ledger, &late).await;
    drop(staged);
    let applied = late.await.unwrap().unwrap().commit().await.unwrap();
    assert_eq!(effects(&applied), [Effect::Recorded]);
}

#[sqlx::test(migrations = "./migrations")]
async fn two_partitions_after_one_unit(pool: PgPool) {
    let ledger = ledger(pool).await;
    for (n, commits) in [(1, true), (2, false)] {
        sqlx::query("truncate reservation, unit, unit_return, outcome_queue").execute(ledger.pool()).await.unwrap();
        let one = batch(&ledger, 0, &[hold(10 * n + 1, "alice", &[1])]).await;
        let two = batch(&ledger, 1, &[hold(10 * n + 2, "bob", &[1, 2]), hold(10 * n + 3, "carol", &[3])]).await;
        let staged = ledger.stage(&one).await.unwrap();
        let waiting = stage(&ledger, two);
        blocked(&ledger, &waiting).await;
        if commits {
            staged.commit().await.unwrap();
        } else {
            drop(staged);
        }
        let applied = waiting.await.unwrap().unwrap().commit().await.unwrap();
        let owners: Vec<_> = owners(&ledger).await.into_iter().map(|(unit, owner)| (unit, owner - 10 * n)).collect();
        if commits {
            assert_eq!(effects(&applied), [Effect::Rejected, Effect::Recorded]);
            assert_eq!(owners, [(1, 1), (3, 3)]);
            assert_eq!(pending(&ledger).await, [(1, 12, vec![2])]);
        } else {
            assert_eq!(effects(&applied), [Effect::Recorded, Effect::Recorded]);
            assert_eq!(owners, [(1, 2), (2, 2), (3, 3)]);
        }
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn a_reservation_that_somebody_else_changes_meanwhile_is_decided_anew(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1])]).await;
    // Somebody ends the hold: as its expiry will.
    let mut expiry = ledger.pool().begin().await.unwrap();
    for sql in ["update reservation set state = 3, version = 2, ended_at = now()", "delete from unit"] {
        sqlx::query(sql).execute(&mut *expiry).await.unwrap();
    }
    let cancel = stage(&ledger, batch(&ledger, 0, &[cancel(100, 1, "alice")]).await);
    blocked(&ledger, &cancel).await;
    expiry.commit().await.unwrap();
    let applied = cancel.await.unwrap().unwrap().commit().await.unwrap();
    assert_eq!((effects(&applied), applied.settled[0].state), (vec![Effect::NoEffect], ReservationState::Expired));
    assert_eq!(contents(&ledger).await.returns, BTreeMap::new());
}

#[sqlx::test(migrations = "./migrations")]
async fn return_numbers_have_no_gaps_and_commit_in_order(pool: PgPool) {
    let ledger = ledger(pool).await;
    let holds: Vec<_> = (1..=6).map(|n| hold(n, "alice", &[u32::try_from(n).unwrap()])).collect();
    apply(&ledger, &holds).await;
    let one =
        ledger.stage(&batch(&ledger, 1, &[cancel(101, 1, "alice"), cancel(102, 2, "alice")]).await).await.unwrap();
    // The second waits for the first to end, so it cannot become visible before it ...
    let two = stage(&ledger, batch(&ledger, 2, &[cancel(103, 3, "alice")]).await);
    blocked(&ledger, &two).await;
    assert_eq!(pending(&ledger).await, []);
    // ... and where the first is undone, its numbers are given out again.
    drop(one);
    let two = two.await.unwrap().unwrap();
    let three = stage(&ledger, batch(&ledger, 3, &[cancel(104, 4, "alice"), cancel(105, 5, "alice")]).await);
    blocked(&ledger, &three).await;
    two.commit().await.unwrap();
    three.await.unwrap().unwrap().commit().await.unwrap();
    assert_eq!(pending(&ledger).await, [(1, 3, vec![3]), (2, 4, vec![4]), (3, 5, vec![5])]);
    assert_eq!(ledger.sale(&sale("demo").id).await.unwrap().unwrap().return_seq, 3);
    assert_consistent(&ledger).await;
}

/// Two processors sell the same few units over and over, retrying as a caller does; whatever the order, no unit has
/// two owners and nobody has half of what they asked for.
#[sqlx::test(migrations = "./migrations")]
async fn partitions_that_fight_over_units_leave_a_sound_ledger(pool: PgPool) {
    let ledger = ledger(pool).await;
    let mut fighters = Vec::new();
    for partition in 0..3_u128 {
        let ledger = ledger.clone();
        fighters.push(tokio::spawn(async move {
            for round in 0..12_u128 {
                let commands: Vec<Command> = (0..8_u128)
                    .flat_map(|n| {
                        let id = 1 + partition + 3 * (n + 8 * round);
                        let first = u32::try_from((id * 7) % 9 + 1).unwrap();
                        let user = format!("user-{id}");
                        let mut commands = vec![hold(id, &user, &[first, first + 1])];
                        if n % 2 == 0 && round > 0 {
                            // One of the round before.
                            let former = id - 24;
                            commands.push(cancel(10_000 + former, former, &format!("user-{former}")));
                        }
                        commands
                    })
                    .collect();
                let partition = i32::try_from(partition).unwrap();
                let batch = batch(&ledger, partition, &commands).await;
                loop {
                    match ledger.stage(&batch).await {
                        Ok(staged) => {
                            staged.commit().await.unwrap();
                            break;
                        }
                        Err(error) => assert!(error.is_transient(), "{error}"),
                    }
                }
            }
        }));
    }
    for fighter in fighters {
        fighter.await.unwrap();
    }
    let contents = contents(&ledger).await;
    assert_eq!(contents.reservations.len(), 3 * 12 * 8);
    assert_eq!(contents.commands.len(), 3 * 11 * 4);
    assert!(contents.reservations.values().any(|r| r.state == ReservationState::Rejected));
    assert_consistent(&ledger).await;
}

#[sqlx::test(migrations = "./migrations")]
async fn of_two_commands_with_one_id_one_is_taken(pool: PgPool) {
    let ledger = ledger(pool).await;
    // Of another sale: the two do not wait for each other's sale.
    ledger.insert_sale(&sale("other")).await.unwrap();
    apply(&ledger, &[hold(1, "alice", &[1]), hold_in("other", 2, "alice", &[2])]).await;
    let one = ledger.stage(&batch(&ledger, 1, &[cancel(100, 1, "alice")]).await).await.unwrap();
    let two = stage(&ledger, batch(&ledger, 2, &[cancel_in("other", 100, 2, "alice")]).await);
    blocked(&ledger, &two).await;
    one.commit().await.unwrap();
    let applied = two.await.unwrap().unwrap().commit().await.unwrap();
    assert_eq!(refusals(&applied), [(0, Refusal::ConflictingDuplicate)]);
    assert_eq!(contents(&ledger).await.commands, BTreeMap::from([(100, (1, "cancelled".to_owned()))]));
}
