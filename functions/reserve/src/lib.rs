//! onsale-reserve
