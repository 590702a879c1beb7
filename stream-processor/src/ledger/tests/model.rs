//! However a log is cut into batches, the ledger is that of one command after the other.

use super::*;
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

const SALES: [&str; 2] = ["demo", "other"];
const USERS: [&str; 3] = ["alice", "bob", "carol"];
const CAPACITY: u32 = 5;

/// What became of a command: what was told for one that was taken, or why it was not.
type Verdict = Result<(Uuid, ReservationState, i32, Effect), Refusal>;

/// One command at a time, in the plainest way there is.
#[derive(Default)]
struct Model {
    contents: Contents,
    last_seq: BTreeMap<String, i64>,
}

impl Model {
    fn take(&mut self, command: &Command) -> Verdict {
        match command {
            Command::Hold(hold) => self.hold(hold),
            Command::Cancel(cancel) => self.cancel(cancel),
        }
    }

    fn hold(&mut self, hold: &Hold) -> Verdict {
        let id = hold.reservation_id.uuid;
        let sale = hold.reservation_id.sale.to_string();
        let units: Vec<i32> = hold.units.iter().map(|n| n.cast_signed()).collect();
        if hold.units.iter().any(|&n| n > CAPACITY) {
            return Err(Refusal::UnitsOutOfRange);
        }
        if let Some(known) = self.contents.reservations.get(&id.as_u128()) {
            let same = known.sale == sale && known.user == hold.user_id.as_str() && known.units == units;
            return if same {
                Ok((id, known.state, known.version, Effect::Duplicate))
            } else {
                Err(Refusal::ConflictingDuplicate)
            };
        }
        let (owned, free): (Vec<i32>, Vec<i32>) =
            units.iter().partition(|&&n| self.contents.units.contains_key(&(sale.clone(), n)));
        let mut stands = Stands {
            sale: sale.clone(),
            user: hold.user_id.to_string(),
            state: ReservationState::Held,
            version: 1,
            units: units.clone(),
            ended_at: None,
            reason: None,
        };
        let effect = if owned.is_empty() {
            for n in units {
                self.contents.units.insert((sale.clone(), n), id.as_u128());
            }
            Effect::Recorded
        } else {
            stands.state = ReservationState::Rejected;
            stands.ended_at = Some(hold.occurred_at);
            let numbers: Vec<_> = owned.iter().map(ToString::to_string).collect();
            stands.reason = Some(format!("unit-conflict: {}", numbers.join(",")));
            self.give_back(&sale, id.as_u128(), hold.user_id.as_str(), free, 1);
            Effect::Rejected
        };
        let state = stands.state;
        self.contents.reservations.insert(id.as_u128(), stands);
        Ok((id, state, 1, effect))
    }

    fn cancel(&mut self, cancel: &Cancel) -> Verdict {
        let reservation = cancel.reservation_id.uuid.as_u128();
        let sale = cancel.reservation_id.sale.to_string();
        let Some(known) = self.contents.reservations.get_mut(&reservation).filter(|known| known.sale == sale) else {
            return Err(Refusal::UnknownReservation);
        };
        if known.user != cancel.user_id.as_str() {
            return Err(Refusal::NotTheOwner);
        }
        if let Some((other, _)) = self.contents.commands.get(&cancel.id.as_u128()) {
            return if *other == reservation {
                Ok((cancel.id, known.state, known.version, Effect::Duplicate))
            } else {
                Err(Refusal::ConflictingDuplicate)
            };
        }
        let effect = if known.state == ReservationState::Held {
            known.state = ReservationState::Cancelled;
            known.version += 1;
            known.ended_at = Some(cancel.occurred_at);
            Effect::Cancelled
        } else {
            Effect::NoEffect
        };
        let (state, version, units) = (known.state, known.version, known.units.clone());
        self.contents.commands.insert(cancel.id.as_u128(), (reservation, effect.name().to_owned()));
        if effect == Effect::Cancelled {
            for n in &units {
                assert_eq!(self.contents.units.remove(&(sale.clone(), *n)), Some(reservation));
            }
            self.give_back(&sale, reservation, cancel.user_id.as_str(), units, version);
        }
        Ok((cancel.id, state, version, effect))
    }

    fn give_back(&mut self, sale: &str, reservation: u128, user: &str, units: Vec<i32>, version: i32) {
        let seq = self.last_seq.entry(sale.to_owned()).or_default();
        *seq += 1;
        self.contents.returns.insert((sale.to_owned(), *seq), (reservation, user.to_owned(), units));
        self.contents.outcomes.insert(reservation, version);
    }
}

/// A log of few reservations, units and commands, so that they meet all the time; with copies, altered copies, and
/// commands of the wrong user. `true` ends a batch.
fn logs() -> impl Strategy<Value = Vec<(Command, bool)>> {
    // What each reservation is: its sale, its user and its units as bits; number 6 is not in stock.
    let reservations =
        prop::collection::vec((0..SALES.len(), 0..USERS.len(), prop_oneof![9 => 1..32_u32, 1 => 32..64_u32]), 8);
    let steps = prop::collection::vec((0..8_usize, 0..20_u32, 0..6_u128, prop::bool::weighted(0.3)), 1..40);
    (reservations, steps).prop_map(|(reservations, steps)| {
        let command = |slot: usize, dice: u32, command: u128| {
            let (sale, user, bits) = reservations[slot];
            let id = u128::try_from(slot).unwrap() + 1;
            let units = |bits: u32| (1..=6).filter(|n| bits >> (n - 1) & 1 == 1).collect::<Vec<u32>>();
            match dice {
                0 => hold_in(SALES[sale], id, USERS[user], &units(bits % 31 + 1)),
                1..11 => hold_in(SALES[sale], id, USERS[user], &units(bits)),
                11 => cancel_in(SALES[sale], 100 + command, id, USERS[(user + 1) % USERS.len()]),
                12 => cancel_in(SALES[1 - sale], 100 + command, id, USERS[user]),
                13 => cancel_in(SALES[sale], 100 + command, id, USERS[user]),
                // Most cancels have an id of their own, or that of an earlier one of the same reservation.
                _ => cancel_in(SALES[sale], 1_000 + 10 * id + command % 3, id, USERS[user]),
            }
        };
        steps.into_iter().map(|(slot, dice, id, ends)| (command(slot, dice, id), ends)).collect()
    })
}

async fn check(ledger: &Ledger, log: &[(Command, bool)]) -> Result<(), TestCaseError> {
    for sql in [
        "delete from reservation",
        "delete from unit",
        "delete from command",
        "delete from unit_return",
        "delete from outcome_queue",
        "update sale set return_seq = 0",
    ] {
        sqlx::query(sql).execute(ledger.pool()).await.unwrap();
    }
    let mut model = Model::default();
    for commands in log.split_inclusive(|(_, ends)| *ends) {
        let commands: Vec<Command> = commands.iter().map(|(command, _)| command.clone()).collect();
        let expected: Vec<Verdict> = commands.iter().map(|command| model.take(command)).collect();
        let applied = apply(ledger, &commands).await;
        let mut settled = applied.settled.iter();
        let mut refused = applied.refused.iter().peekable();
        let told: Vec<Verdict> = (0..commands.len())
            .map(|index| match refused.next_if(|refused| refused.entry == index) {
                Some(refused) => Err(refused.reason),
                None => Ok(settled.next().map(|s| (s.command_id, s.state, s.version, s.effect)).unwrap()),
            })
            .collect();
        prop_assert_eq!(told, expected);
    }
    let contents = contents(ledger).await;
    prop_assert_eq!(&contents, &model.contents);

    // And whatever the model thinks: what is owned is what owning reservations were sold.
    let mut owned = BTreeMap::new();
    for (id, reservation) in contents.reservations.iter().filter(|(_, r)| r.state.owns_units()) {
        for unit in &reservation.units {
            prop_assert_eq!(owned.insert((reservation.sale.clone(), *unit), *id), None);
        }
    }
    prop_assert_eq!(owned, contents.units);
    let audit = ledger.snapshot().await.unwrap().audit().await.unwrap();
    // Limits are Redis' to keep; here users take what they like.
    let told: Vec<_> = audit.violations().into_iter().filter(|told| !told.contains("over the limit")).collect();
    prop_assert_eq!(told, Vec::<String>::new());
    Ok(())
}

#[sqlx::test(migrations = "./migrations")]
async fn batches_are_but_a_way_of_writing(_: PgPoolOptions, options: PgConnectOptions) {
    // proptest calls back without async: it gets a thread and a runtime of its own.
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ledger = runtime.block_on(async {
            // Nothing here outlives the test, so nothing need be waited for on disk.
            let options = options.options([("synchronous_commit", "off")]);
            let ledger = Ledger::from(PgPoolOptions::new().max_connections(2).connect_with(options).await.unwrap());
            for id in SALES {
                ledger.insert_sale(&sale_with(id, |config| config["capacity"] = CAPACITY.into())).await.unwrap();
            }
            ledger
        });
        let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
        let result = TestRunner::new(config).run(&logs(), |log| runtime.block_on(check(&ledger, &log)));
        runtime.block_on(ledger.pool().close());
        if let Err(failure) = result {
            panic!("{failure}");
        }
    };
    tokio::task::spawn_blocking(run).await.unwrap();
}
