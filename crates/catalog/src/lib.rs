//! onsale-catalog
