//! onsale-configure
