//! onsale-browse
