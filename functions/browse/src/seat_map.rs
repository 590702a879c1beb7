//! The seat map: sections as rules, what is taken as a bitmap. 50,000 seats are 9 kB.

use axum::body::Bytes;
use base64::{Engine, engine::general_purpose::STANDARD};
use onsale_domain::{Money, SaleId, SaleSettings, Seating, UnitNumber};
use onsale_inventory::Seats;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

/// The seats of a sale and which of them are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeatMap {
    /// The sale.
    #[schema(value_type = String)]
    pub sale_id: SaleId,
    /// Seats there are.
    pub capacity: u32,
    /// Seats not taken.
    pub available: u32,
    /// The sections, in the order of their unit numbers.
    pub sections: Vec<SectionView>,
    /// Base64 of a bit a seat in the order of the unit numbers, the first in the highest bit of the first byte; 1 is
    /// taken. Unit `n` is bit `0x80 >> (n-1) % 8` of byte `(n-1) / 8`.
    #[schema(example = "gAA=")]
    pub taken: String,
}

/// A block of seats `<section>-<row>-<seat>`. Seat `s` of row `r` is unit `firstNumber + (r-1) * seatsPerRow + s-1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SectionView {
    /// Its name.
    pub section: String,
    /// The unit number of its seat `1-1`.
    pub first_number: UnitNumber,
    /// Its rows.
    pub rows: u32,
    /// Seats in each.
    pub seats_per_row: u32,
    /// What a seat costs.
    pub unit_price: Money,
}

/// A seat map as it is sent, with its tag.
#[derive(Debug)]
pub(crate) struct RenderedMap {
    pub json: Bytes,
    pub etag: String,
}

impl SeatMap {
    pub(crate) fn new(sale: &SaleSettings, seating: &Seating, seats: &Seats) -> Self {
        let sections = seating
            .sections()
            .map(|(s, first_number)| SectionView {
                section: s.section.clone(),
                first_number,
                rows: s.rows,
                seats_per_row: s.seats_per_row,
                unit_price: s.unit_price.unwrap_or(sale.config().unit_price),
            })
            .collect();
        Self {
            sale_id: sale.id.clone(),
            capacity: seating.capacity(),
            available: seats.free,
            sections,
            taken: STANDARD.encode(&seats.taken),
        }
    }

    pub(crate) fn render(&self) -> anyhow::Result<RenderedMap> {
        let json = serde_json::to_vec(self)?;
        let digest = Sha256::digest(&json);
        let etag = format!("\"{}\"", digest[..12].iter().map(|b| format!("{b:02x}")).collect::<String>());
        Ok(RenderedMap { json: json.into(), etag })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_domain::SaleConfig;

    #[test]
    fn fifty_thousand_seats_are_tens_of_kilobytes_and_the_tag_follows_what_is_taken() {
        let sections: Vec<_> =
            (0..100).map(|i| serde_json::json!({"section": format!("S{i}"), "rows": 25, "seatsPerRow": 20})).collect();
        let config: SaleConfig = serde_json::from_value(serde_json::json!({
            "title": "t", "artist": "a", "opensAt": "2026-01-01T00:00:00Z", "seats": sections,
            "unitPrice": {"amount": 100, "currency": "EUR"}, "perUserLimit": 4, "holdSeconds": 300
        }))
        .unwrap();
        let sale = SaleSettings::new(SaleId::parse("saleId", "arena").unwrap(), config).unwrap();
        let render = |taken: Vec<u8>| {
            SeatMap::new(&sale, sale.seating().unwrap(), &Seats { free: 50_000, taken }).render().unwrap()
        };
        let (empty, one) = (render(vec![0; 6250]), render([vec![0x80], vec![0; 6249]].concat()));
        assert!(empty.json.len() < 30_000, "{}", empty.json.len());
        assert_ne!(empty.etag, one.etag);
        assert_eq!(empty.etag, render(vec![0; 6250]).etag);
    }
}
