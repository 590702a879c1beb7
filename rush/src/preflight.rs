//! What would make a whole rush pointless, found out before it.

use crate::{
    buyer::Buyer,
    target::Target,
    wire::{Connection, Trouble},
};
use anyhow::{Context, Result, bail};
use http::StatusCode;
use onsale_domain::{ReservationId, SaleId};
use serde::Deserialize;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// Fails where no request of `buyer` could be answered as meant: nobody listens, no such sale, a token that does not
/// hold. Anything else, also a server that is busy, is for the rush to find out.
pub async fn check(gateway: &Target, sale: &SaleId, buyer: &Buyer) -> Result<()> {
    let mut connection = Connection::new(gateway.clone());
    let answer = match connection.get(format!("/v1/sales/{sale}").parse()?, None, LIMIT).await {
        Ok(answer) => answer,
        Err(Trouble::Connect(e)) => {
            return Err(e).with_context(|| format!("nothing answers at {gateway}; `make up` starts the gateway"));
        }
        Err(_) => return Ok(()),
    };
    if answer.status() == StatusCode::NOT_FOUND {
        bail!("{gateway} knows no sale {sale}; an administrator creates it with PUT /v1/sales/{sale}");
    }
    note_if_closed(sale, answer.body());

    // Nobody's reservation: a token that holds is told 404, one that does not 401.
    let nobodys = ReservationId::generate(sale.clone());
    let uri = format!("/v1/reservations/{nobodys}").parse()?;
    if let Ok(answer) = connection.get(uri, Some(&buyer.authorization), LIMIT).await
        && answer.status() == StatusCode::UNAUTHORIZED
    {
        bail!("{gateway} does not take the buyers' tokens: ONSALE_JWT_SECRET must be the one the gateway has");
    }
    Ok(())
}

/// A rush on a closed sale is a fair test, but seldom what was meant.
fn note_if_closed(sale: &SaleId, body: &[u8]) {
    #[derive(Deserialize)]
    struct Sale {
        state: String,
    }
    if let Ok(Sale { state }) = serde_json::from_slice(body)
        && state != "open"
    {
        eprintln!("note: sale {sale} is {state}");
    }
}
