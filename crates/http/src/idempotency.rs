//! The `Idempotency-Key` header, and the digests under which an answer is kept.

use crate::ApiError;
use axum::extract::FromRequestParts;
use http::request::Parts;
use onsale_domain::{IdempotencyKey, Invalid, UserId};
use sha2::{Digest, Sha256};

const HEADER: &str = "idempotency-key";

/// The request's idempotency key; without one, or with more than one, the request is malformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredIdempotencyKey(pub IdempotencyKey);

impl<S: Sync> FromRequestParts<S> for RequiredIdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let wrong = |expected: &str| ApiError::from(Invalid::new("Idempotency-Key", expected));
        let mut values = parts.headers.get_all(HEADER).iter();
        let value = values.next().ok_or_else(|| wrong("is needed here: a new value for every new command"))?;
        if values.next().is_some() {
            return Err(wrong("must be sent once"));
        }
        // What is not visible ASCII becomes an empty text, which the parser refuses in its own words.
        Ok(Self(IdempotencyKey::parse(value.to_str().unwrap_or_default())?))
    }
}

/// Names the answer to `key`, sent by `user` to `operation`, for whoever stores it: the same key of
/// another user or of another operation is another digest.
pub fn key_digest(user: &UserId, operation: &str, key: &IdempotencyKey) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in [user.as_str(), operation, key.as_str()] {
        // The length in front keeps ("ab", "c") and ("a", "bc") apart.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    truncated(hash)
}

/// Tells one request from another under the same key. `request` must be a canonical form: what was
/// understood, not the bytes as they came, so that white space and member order do not matter.
pub fn fingerprint(request: &[u8]) -> [u8; 8] {
    truncated(Sha256::new_with_prefix(request))
}

fn truncated<const N: usize>(hash: Sha256) -> [u8; N] {
    let mut short = [0; N];
    short.copy_from_slice(&hash.finalize()[..N]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn digests_are_stable_and_unambiguous() {
        let user = |s| UserId::parse(s).unwrap();
        let key = |s| IdempotencyKey::parse(s).unwrap();
        // Stored for a day: another value for the same input would let a repeated command through.
        let digest = key_digest(&user("alice"), "reserve", &key("k-1"));
        assert_eq!(
            digest,
            [0x3c, 0x4f, 0x44, 0x93, 0x98, 0x71, 0x2c, 0xaf, 0x47, 0x80, 0xfe, 0xe2, 0x06, 0x41, 0xf6, 0xe5]
        );
        assert_eq!(key_digest(&user("alice"), "reserve", &key("\"k-1\"")), digest);
        assert_eq!(fingerprint(b"{\"quantity\":2}"), [0xe7, 0x1f, 0xf9, 0x76, 0x8d, 0xda, 0x68, 0x4a]);
        let others = [
            ("alice", "reserve", "k-1"),
            ("alic", "ereserve", "k-1"),
            ("alice", "reservek", "-1"),
            ("alice", "cancel", "k-1"),
            ("bob", "reserve", "k-1"),
        ];
        let digests: HashSet<_> = others.iter().map(|(u, o, k)| key_digest(&user(u), o, &key(k))).collect();
        assert_eq!(digests.len(), others.len());
    }
}
