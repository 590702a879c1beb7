//! onsale-inventory
