//! onsale-cancel
