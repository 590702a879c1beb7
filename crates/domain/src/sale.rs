//! A sale: what is sold, to whom, when and for how much.

use crate::{Invalid, Money, SaleId, Timestamp, UnitNumber, money::MAX_AMOUNT};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The largest stock of one sale. Its bitmap is then 1.25 MB, which one script call still walks in time.
pub const MAX_CAPACITY: u32 = 10_000_000;
/// The most a seat map may hold, so that the map stays a few hundred kB.
pub const MAX_SEATS: u32 = 1_000_000;
/// The most units one user may hold; bounds what one reservation can be.
pub const MAX_PER_USER: u32 = 100;
/// The most sections of a seat map: their prices are walked inside the script.
pub const MAX_SECTIONS: usize = 200;

/// What an administrator sends to configure a sale (the body of the PUT).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SaleConfig {
    /// 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200, example = "Moonlight, first night")]
    pub title: String,
    /// 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200, example = "The Tides")]
    pub artist: String,
    /// The concert this sale belongs to; the sale's own id where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^[a-z0-9-]{1,64}$")]
    pub concert_id: Option<String>,
    /// When the buttons start to work.
    pub opens_at: Timestamp,
    /// When they stop, if ever; after `opensAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes_at: Option<Timestamp>,
    /// What one unit costs, unless its section says otherwise.
    pub unit_price: Money,
    /// General admission: how many equal units, 1 to 10,000,000. Either this or `seats`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000_000)]
    pub capacity: Option<u32>,
    /// Seats: the sections in the order of their unit numbers, 1,000,000 seats at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 200)]
    pub seats: Option<Vec<Section>>,
    /// The most units one user may hold or own at a time, 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    pub per_user_limit: u32,
    /// How long a hold waits for its payment, 1 to 86,400 seconds.
    #[schema(minimum = 1, maximum = 86_400)]
    pub hold_seconds: u32,
}

/// A block of seats: `rows` rows of `seatsPerRow`, labelled `<section>-<row>-<seat>` from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Section {
    /// `[A-Za-z0-9]{1,16}`, unique within the sale.
    #[schema(pattern = "^[A-Za-z0-9]{1,16}$", example = "A")]
    pub section: String,
    /// 1 to 1,000,000.
    #[schema(minimum = 1)]
    pub rows: u32,
    /// 1 to 1,000,000.
    #[schema(minimum = 1)]
    pub seats_per_row: u32,
    /// What a seat here costs, in the sale's currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_price: Option<Money>,
}

/// What a sale sells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stock {
    /// Equal units: the lowest free number goes first.
    General {
        /// How many.
        capacity: u32,
    },
    /// Named units.
    Seats(Seating),
}

impl Stock {
    /// How many units there are.
    pub fn capacity(&self) -> u32 {
        match self {
            Self::General { capacity } => *capacity,
            Self::Seats(seating) => seating.capacity(),
        }
    }
}

/// The seats of a sale and their numbers: section by section, row by row, seat by seat, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seating {
    sections: Vec<Section>,
    /// The number of each section's first seat.
    first: Vec<UnitNumber>,
    capacity: u32,
}

impl Seating {
    /// Checks names, sizes and currencies.
    pub fn new(sections: Vec<Section>, sale_price: Money) -> Result<Self, Invalid> {
        if sections.is_empty() || sections.len() > MAX_SECTIONS {
            return Err(Invalid::new("seats", format!("must list 1 to {MAX_SECTIONS} sections")));
        }
        let mut first = Vec::with_capacity(sections.len());
        let mut taken: u64 = 0;
        for (i, s) in sections.iter().enumerate() {
            let field = |name: &str| format!("seats[{i}].{name}");
            if !(1..=16).contains(&s.section.len()) || !s.section.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err(Invalid::new(field("section"), "must match [A-Za-z0-9]{1,16}"));
            }
            if sections[..i].iter().any(|other| other.section == s.section) {
                return Err(Invalid::new(field("section"), "must be unique within the sale"));
            }
            for (name, n) in [("rows", s.rows), ("seatsPerRow", s.seats_per_row)] {
                if !(1..=MAX_SEATS).contains(&n) {
                    return Err(Invalid::new(field(name), format!("must be 1 to {MAX_SEATS}")));
                }
            }
            if s.unit_price.is_some_and(|p| p.currency != sale_price.currency) {
                return Err(Invalid::new(field("unitPrice.currency"), "must be the currency of the sale's unitPrice"));
            }
            let from = u32::try_from(taken + 1).map_err(|_| too_many_seats())?;
            first.push(from);
            taken += u64::from(s.rows) * u64::from(s.seats_per_row);
            if taken > u64::from(MAX_SEATS) {
                return Err(too_many_seats());
            }
        }
        let capacity = u32::try_from(taken).map_err(|_| too_many_seats())?;
        Ok(Self { sections, first, capacity })
    }

    /// How many seats there are.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Sections with the number of their first seat, in order.
    pub fn sections(&self) -> impl ExactSizeIterator<Item = (&Section, UnitNumber)> {
        self.sections.iter().zip(self.first.iter().copied())
    }

    /// The number of the seat called `label` (`<section>-<row>-<seat>`, no leading zeros), if there is one.
    pub fn number(&self, label: &str) -> Option<UnitNumber> {
        let mut parts = label.split('-');
        let (section, row, seat) = (parts.next()?, ordinal(parts.next()?)?, ordinal(parts.next()?)?);
        if parts.next().is_some() {
            return None;
        }
        let i = self.sections.iter().position(|s| s.section == section)?;
        let s = &self.sections[i];
        (row <= s.rows && seat <= s.seats_per_row).then(|| self.first[i] + (row - 1) * s.seats_per_row + (seat - 1))
    }

    /// The label of seat `number`, if there is one.
    pub fn label(&self, number: UnitNumber) -> Option<String> {
        if number == 0 || number > self.capacity {
            return None;
        }
        let i = self.first.partition_point(|&f| f <= number) - 1;
        let s = &self.sections[i];
        let offset = number - self.first[i];
        Some(format!("{}-{}-{}", s.section, offset / s.seats_per_row + 1, offset % s.seats_per_row + 1))
    }
}

fn too_many_seats() -> Invalid {
    Invalid::new("seats", format!("must hold {MAX_SEATS} seats at most"))
}

fn ordinal(s: &str) -> Option<u32> {
    s.parse().ok().filter(|&n: &u32| n >= 1 && !s.starts_with(['0', '+']))
}

/// A run of unit numbers that cost the same: those up to and including `last`, after the tier before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PriceTier {
    /// The last number of the run.
    pub last: UnitNumber,
    /// Minor units.
    pub amount: i64,
}

/// A sale whose settings have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaleSettings {
    /// Its id.
    pub id: SaleId,
    /// As it was sent.
    config: SaleConfig,
    stock: Stock,
}

impl SaleSettings {
    /// Checks everything a single field cannot: ranges, either capacity or seats, the window, the sums.
    pub fn new(id: SaleId, config: SaleConfig) -> Result<Self, Invalid> {
        for (field, text) in [("title", &config.title), ("artist", &config.artist)] {
            if !(1..=200).contains(&text.chars().count())
                || text.chars().any(char::is_control)
                || text.trim().is_empty()
            {
                return Err(Invalid::new(field, "must be 1 to 200 printable characters"));
            }
        }
        if let Some(concert) = &config.concert_id {
            SaleId::parse("concertId", concert)?;
        }
        if config.closes_at.is_some_and(|closes| closes <= config.opens_at) {
            return Err(Invalid::new("closesAt", "must be after opensAt"));
        }
        if !(1..=MAX_PER_USER).contains(&config.per_user_limit) {
            return Err(Invalid::new("perUserLimit", format!("must be 1 to {MAX_PER_USER}")));
        }
        if !(1..=86_400).contains(&config.hold_seconds) {
            return Err(Invalid::new("holdSeconds", "must be 1 to 86400"));
        }
        let stock = match (config.capacity, &config.seats) {
            (Some(capacity), None) if (1..=MAX_CAPACITY).contains(&capacity) => Stock::General { capacity },
            (Some(_), None) => return Err(Invalid::new("capacity", format!("must be 1 to {MAX_CAPACITY}"))),
            (None, Some(seats)) => Stock::Seats(Seating::new(seats.clone(), config.unit_price)?),
            _ => return Err(Invalid::new("capacity", "either capacity or seats must be given, not both")),
        };
        let sale = Self { id, config, stock };
        let dearest = sale.tiers().iter().map(|t| t.amount).max().unwrap_or(0);
        if dearest.checked_mul(i64::from(sale.stock.capacity())).is_none_or(|sum| sum > MAX_AMOUNT) {
            return Err(Invalid::new(
                "unitPrice.amount",
                "times the capacity must not exceed 9007199254740991 minor units",
            ));
        }
        Ok(sale)
    }

    /// The settings as they were sent.
    pub fn config(&self) -> &SaleConfig {
        &self.config
    }

    /// What is sold.
    pub fn stock(&self) -> &Stock {
        &self.stock
    }

    /// The concert's id, the sale's own where none was given.
    pub fn concert_id(&self) -> &str {
        self.config.concert_id.as_deref().unwrap_or(self.id.as_str())
    }

    /// The seats, where it has any.
    pub fn seating(&self) -> Option<&Seating> {
        match &self.stock {
            Stock::General { .. } => None,
            Stock::Seats(seating) => Some(seating),
        }
    }

    /// What units cost, in the order of their numbers.
    pub fn tiers(&self) -> Vec<PriceTier> {
        match &self.stock {
            Stock::General { capacity } => vec![PriceTier { last: *capacity, amount: self.config.unit_price.amount }],
            Stock::Seats(seating) => seating
                .sections()
                .map(|(s, first)| PriceTier {
                    last: first - 1 + s.rows * s.seats_per_row,
                    amount: s.unit_price.unwrap_or(self.config.unit_price).amount,
                })
                .collect(),
        }
    }

    /// Whether `other` sells the same units in the same currency: what may not change once a sale exists.
    pub fn same_stock(&self, other: &Self) -> bool {
        let shape = |s: &Self| match &s.stock {
            Stock::General { capacity } => (*capacity, Vec::new()),
            Stock::Seats(seating) => {
                (0, seating.sections().map(|(x, _)| (x.section.clone(), x.rows, x.seats_per_row)).collect())
            }
        };
        shape(self) == shape(other) && self.config.unit_price.currency == other.config.unit_price.currency
    }
}

/// A sale, as answered by PUT and GET.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SaleView {
    /// Its id.
    #[schema(value_type = String)]
    pub sale_id: SaleId,
    /// What is performed.
    pub title: String,
    /// By whom.
    pub artist: String,
    /// The concert it belongs to; its own id where none was given.
    pub concert_id: String,
    /// Where it stands.
    pub state: SaleState,
    /// Units there are.
    pub capacity: u32,
    /// Units not taken.
    pub available: u32,
    /// Whether units are seats to be named; the seat map lists them.
    pub seated: bool,
    /// When the buttons start to work.
    pub opens_at: Timestamp,
    /// When they stop, if ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes_at: Option<Timestamp>,
    /// What one unit costs, unless its section says otherwise.
    pub unit_price: Money,
    /// The most units one user may hold or own at a time.
    pub per_user_limit: u32,
    /// How long a hold waits for its payment.
    pub hold_seconds: u32,
}

impl SaleView {
    /// A sale of which `available` units are free.
    pub fn new(sale: &SaleSettings, state: SaleState, available: u32) -> Self {
        let c = sale.config();
        Self {
            sale_id: sale.id.clone(),
            title: c.title.clone(),
            artist: c.artist.clone(),
            concert_id: sale.concert_id().to_owned(),
            state,
            capacity: sale.stock().capacity(),
            available,
            seated: sale.seating().is_some(),
            opens_at: c.opens_at,
            closes_at: c.closes_at,
            unit_price: c.unit_price,
            per_user_limit: c.per_user_limit,
            hold_seconds: c.hold_seconds,
        }
    }
}

/// Where a sale stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SaleState {
    /// Before `opensAt`.
    Scheduled,
    /// Selling.
    Open,
    /// Stopped by an administrator.
    Paused,
    /// After `closesAt`.
    Closed,
}

impl SaleState {
    /// The state of a sale at `now`.
    pub fn at(now: Timestamp, opens_at: Timestamp, closes_at: Option<Timestamp>, paused: bool) -> Self {
        if closes_at.is_some_and(|closes| now >= closes) {
            Self::Closed
        } else if paused {
            Self::Paused
        } else if now < opens_at {
            Self::Scheduled
        } else {
            Self::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn config(change: impl FnOnce(&mut serde_json::Value)) -> Result<SaleSettings, String> {
        let mut body = json!({
            "title": "t", "artist": "a", "opensAt": "2026-01-01T00:00:00Z", "capacity": 10,
            "unitPrice": {"amount": 100, "currency": "EUR"}, "perUserLimit": 4, "holdSeconds": 300
        });
        change(&mut body);
        let config = serde_json::from_value(body).map_err(|e| e.to_string())?;
        SaleSettings::new(SaleId::parse("saleId", "s").unwrap(), config).map_err(|e| e.to_string())
    }

    #[test]
    fn refusals_name_the_field() {
        assert!(config(|_| ()).is_ok());
        type Change = fn(&mut serde_json::Value);
        let cases: [(&str, Change); 13] = [
            ("title", |b| b["title"] = json!("")),
            ("artist", |b| b["artist"] = json!("x".repeat(201))),
            ("concertId", |b| b["concertId"] = json!("A B")),
            ("closesAt", |b| b["closesAt"] = json!("2025-01-01T00:00:00Z")),
            ("capacity", |b| b["capacity"] = json!(0)),
            ("capacity", |b| b["seats"] = json!([])),
            ("perUserLimit", |b| b["perUserLimit"] = json!(0)),
            ("holdSeconds", |b| b["holdSeconds"] = json!(86_401)),
            ("unitPrice.amount", |b| {
                b["capacity"] = json!(10_000_000);
                b["unitPrice"]["amount"] = json!(1_000_000_000);
            }),
            ("extra", |b| b["extra"] = json!(1)),
            ("seats[1].section", |b| {
                b.as_object_mut().unwrap().remove("capacity");
                b["seats"] = json!([{"section":"A","rows":1,"seatsPerRow":1},{"section":"A","rows":1,"seatsPerRow":1}]);
            }),
            ("seats[0].rows", |b| {
                b.as_object_mut().unwrap().remove("capacity");
                b["seats"] = json!([{"section":"A","rows":0,"seatsPerRow":1}]);
            }),
            ("seats[0].unitPrice.currency", |b| {
                b.as_object_mut().unwrap().remove("capacity");
                b["seats"] =
                    json!([{"section":"A","rows":1,"seatsPerRow":1,"unitPrice":{"amount":1,"currency":"USD"}}]);
            }),
        ];
        for (field, change) in cases {
            let refusal = config(change).unwrap_err();
            assert!(refusal.contains(field), "{field}: {refusal}");
        }
    }

    #[test]
    fn too_many_seats_is_refused_without_overflow() {
        let huge = config(|b| {
            b.as_object_mut().unwrap().remove("capacity");
            b["seats"] = json!([{"section":"A","rows":1_000_000,"seatsPerRow":1_000_000}]);
        });
        assert!(huge.unwrap_err().contains("seats"));
    }

    #[test]
    fn tiers_follow_the_sections() {
        let sale = config(|b| {
            b.as_object_mut().unwrap().remove("capacity");
            b["seats"] = json!([
                {"section":"A","rows":2,"seatsPerRow":3,"unitPrice":{"amount":500,"currency":"EUR"}},
                {"section":"B","rows":1,"seatsPerRow":4}
            ]);
        })
        .unwrap();
        assert_eq!(sale.tiers(), [PriceTier { last: 6, amount: 500 }, PriceTier { last: 10, amount: 100 }]);
        let seating = sale.seating().unwrap();
        assert_eq!(seating.number("B-1-4"), Some(10));
        for wrong in ["B-1-5", "B-2-1", "C-1-1", "A-0-1", "A-01-1", "A-1", "A-1-1-1", "", "A-+1-1", "A-1-99999999999"] {
            assert_eq!(seating.number(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_seat_has_one_label_and_every_label_one_seat(
            shape in proptest::collection::vec((1u32..20, 1u32..20), 1..6)
        ) {
            let sections: Vec<Section> = shape.iter().enumerate().map(|(i, &(rows, seats_per_row))| Section {
                section: format!("S{i}"), rows, seats_per_row, unit_price: None,
            }).collect();
            let price = serde_json::from_value(json!({"amount": 1, "currency": "EUR"})).unwrap();
            let seating = Seating::new(sections, price).unwrap();
            prop_assert_eq!(seating.capacity(), shape.iter().map(|(r, s)| r * s).sum::<u32>());
            for n in 1..=seating.capacity() {
                let label = seating.label(n).unwrap();
                prop_assert_eq!(seating.number(&label), Some(n));
            }
            prop_assert_eq!(seating.label(0), None);
            prop_assert_eq!(seating.label(seating.capacity() + 1), None);
        }
    }
}
