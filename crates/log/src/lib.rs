//! onsale-log
