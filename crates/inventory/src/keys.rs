//! The names of a sale's keys. All carry the hash tag `{saleId}`, so a cluster keeps them in one slot.

use onsale_domain::SaleId;

pub(crate) struct Keys {
    pub sale: String,
    pub units: String,
    pub holds: String,
    pub users: String,
    pub pending: String,
    pub admitted: String,
    pub idem: [String; 3],
}

impl Keys {
    pub fn of(sale: &SaleId) -> Self {
        let key = |name: &str| format!("onsale:{{{sale}}}:{name}");
        Self {
            sale: key("sale"),
            units: key("units"),
            holds: key("holds"),
            users: key("users"),
            pending: key("pending"),
            admitted: key("admitted"),
            idem: [key("idem0"), key("idem1"), key("idem2")],
        }
    }
}
