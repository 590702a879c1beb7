//! onsale-http
