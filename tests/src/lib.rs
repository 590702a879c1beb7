//! onsale-tests
