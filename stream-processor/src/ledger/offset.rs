//! How far the log has been taken in: the table `consumer_offset`.

use super::{Ledger, LedgerError};
use sqlx::{PgConnection, Row};
use std::sync::Arc;

/// One step of one partition: from the offset the batch starts at to the one after its last record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetMove {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset at which the ledger must stand: where the batch starts.
    pub expected: i64,
    /// The offset of the first record after the batch.
    pub next: i64,
}

/// Where a partition stands in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset of the first record that is not in the ledger.
    pub next_offset: i64,
}

impl Ledger {
    /// Where the ledger stands in each of `partitions` (topic, partition), in that order: where a consumer
    /// that was given them must seek to. A partition the ledger has never seen stands at 0.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn assign_offsets(
        &self,
        group: &str,
        partitions: &[(Arc<str>, i32)],
    ) -> Result<Vec<Position>, LedgerError> {
        let topics: Vec<&str> = partitions.iter().map(|(topic, _)| topic.as_ref()).collect();
        let numbers: Vec<i32> = partitions.iter().map(|&(_, partition)| partition).collect();
        sqlx::query(
            "insert into consumer_offset (consumer_group, topic, partition, next_offset) \
             select $1, p.topic, p.partition, 0 from unnest($2::text[], $3::int[]) as p(topic, partition) \
             order by p.topic, p.partition \
             on conflict (consumer_group, topic, partition) do nothing",
        )
        .bind(group)
        .bind(&topics)
        .bind(&numbers)
        .execute(&self.pool)
        .await?;
        let rows = sqlx::query(
            "select o.next_offset \
             from unnest($2::text[], $3::int[]) with ordinality as p(topic, partition, place) \
             join consumer_offset o \
               on o.consumer_group = $1 and o.topic = p.topic and o.partition = p.partition \
             order by p.place",
        )
        .bind(group)
        .bind(&topics)
        .bind(&numbers)
        .fetch_all(&self.pool)
        .await?;
        if rows.len() != partitions.len() {
            return Err(LedgerError::Inconsistent("offsets vanished while they were read".to_owned()));
        }
        partitions
            .iter()
            .zip(rows)
            .map(|((topic, partition), row)| {
                Ok(Position { topic: Arc::clone(topic), partition: *partition, next_offset: row.try_get(0)? })
            })
            .collect()
    }
}

/// Moves every partition of a batch, or fails with [`LedgerError::Stale`]: if one does not stand where the batch
/// starts, somebody else has taken its records in.
///
/// Two who try the same step wait for one another here, on the row, so this comes first in the transaction:
/// the second has then written nothing that it would have to undo.
pub(super) async fn advance(
    connection: &mut PgConnection,
    group: &str,
    moves: &[OffsetMove],
) -> Result<(), LedgerError> {
    // In one order for all, so that two who share partitions do not wait for each other in a circle.
    let mut moves: Vec<&OffsetMove> = moves.iter().collect();
    moves.sort_unstable_by_key(|m| (&m.topic, m.partition));
    let found = sqlx::query(
        "update consumer_offset o set next_offset = m.next_offset \
         from unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[]) as m(topic, partition, expected, next_offset) \
         where o.consumer_group = $1 and o.topic = m.topic and o.partition = m.partition \
           and o.next_offset = m.expected",
    )
    .bind(group)
    .bind(moves.iter().map(|m| m.topic.as_ref()).collect::<Vec<&str>>())
    .bind(moves.iter().map(|m| m.partition).collect::<Vec<_>>())
    .bind(moves.iter().map(|m| m.expected).collect::<Vec<_>>())
    .bind(moves.iter().map(|m| m.next).collect::<Vec<_>>())
    .execute(connection)
    .await?
    .rows_affected();
    if usize::try_from(found) == Ok(moves.len()) {
        Ok(())
    } else {
        Err(LedgerError::Stale { moves: moves.len(), found })
    }
}
