//! onsale-gateway
