//! onsale-status
