//! Commands other than holds, each taken once: the table `command`.

use super::{Effect, LedgerError};
use onsale_domain::{Cancel, CommandId};
use sqlx::{PgConnection, Row};
use std::collections::HashMap;
use uuid::Uuid;

/// Those of `ids` that have been taken, and the reservations they were about.
pub(super) async fn known(
    connection: &mut PgConnection,
    ids: &[CommandId],
) -> Result<HashMap<CommandId, Uuid>, LedgerError> {
    sqlx::query("select id, reservation_id from command where id = any($1)")
        .bind(ids)
        .fetch_all(connection)
        .await?
        .iter()
        .map(|row| Ok((row.try_get("id")?, row.try_get("reservation_id")?)))
        .collect()
}

/// Writes down cancels and what they did. Fails with a unique violation if one has been taken before.
pub(super) async fn insert_cancels(
    connection: &mut PgConnection,
    cancels: &[(&Cancel, Effect)],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into command (id, reservation_id, kind, occurred_at, result) \
         select c.id, c.reservation_id, 'cancel', c.occurred_at, c.result \
         from unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[]) \
              as c(id, reservation_id, occurred_at, result)",
    )
    .bind(cancels.iter().map(|(c, _)| c.id).collect::<Vec<_>>())
    .bind(cancels.iter().map(|(c, _)| c.reservation_id.uuid).collect::<Vec<_>>())
    .bind(cancels.iter().map(|(c, _)| c.occurred_at.to_datetime()).collect::<Vec<_>>())
    .bind(cancels.iter().map(|(_, effect)| effect.name()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
