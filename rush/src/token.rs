//! Bearer tokens for local runs, signed with HS256 and the secret that the functions verify with.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use std::{env, fmt, time::Duration};

/// The variable that holds the secret.
pub const SECRET_VARIABLE: &str = "ONSALE_JWT_SECRET";
/// As many bytes as the digest the secret keys (RFC 7518 §3.2); the functions refuse fewer, too.
const SHORTEST_SECRET: usize = 32;

/// Why there is no secret to sign with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretError {
    /// Not set, or empty.
    Missing,
    /// Fewer than 32 bytes.
    Short,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(
                f,
                "{SECRET_VARIABLE} is not set. It signs the tokens and must be the gateway's; \
                 localstack/local.env has the local one: localstack/with-env rush …"
            ),
            Self::Short => write!(f, "{SECRET_VARIABLE} must have {SHORTEST_SECRET} bytes or more"),
        }
    }
}

impl std::error::Error for SecretError {}

/// What a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Admin routes.
    Admin,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<Scope>,
}

/// Signs tokens.
pub struct Signer {
    key: EncodingKey,
    header: Header,
}

impl Signer {
    /// With the secret in `ONSALE_JWT_SECRET`. There is no option for it: arguments are seen by every process.
    pub fn from_env() -> Result<Self, SecretError> {
        Self::new(env::var_os(SECRET_VARIABLE).unwrap_or_default().as_encoded_bytes())
    }

    /// With `secret`, 32 bytes or more.
    pub fn new(secret: &[u8]) -> Result<Self, SecretError> {
        match secret.len() {
            0 => Err(SecretError::Missing),
            1..SHORTEST_SECRET => Err(SecretError::Short),
            _ => Ok(Self { key: EncodingKey::from_secret(secret), header: Header::new(Algorithm::HS256) }),
        }
    }

    /// A token that speaks for `user` until `valid_for` has passed.
    pub fn sign(
        &self,
        user: &str,
        scope: Option<Scope>,
        valid_for: Duration,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let iat = jsonwebtoken::get_current_timestamp();
        let claims = Claims { sub: user, iat, exp: iat.saturating_add(valid_for.as_secs()), scope };
        jsonwebtoken::encode(&self.header, &claims, &self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::Value;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn claims_of(token: &str) -> Value {
        let rules = Validation::new(Algorithm::HS256);
        jsonwebtoken::decode::<Value>(token, &DecodingKey::from_secret(SECRET), &rules).unwrap().claims
    }

    #[test]
    fn tokens_say_who_until_when_and_what_for() {
        let signer = Signer::new(SECRET).unwrap();
        let buyer = claims_of(&signer.sign("alice", None, Duration::from_secs(60)).unwrap());
        assert_eq!(buyer["sub"], "alice");
        assert_eq!(buyer["exp"].as_u64().unwrap() - buyer["iat"].as_u64().unwrap(), 60);
        assert!(buyer.get("scope").is_none());
        let admin = claims_of(&signer.sign("root", Some(Scope::Admin), Duration::from_secs(60)).unwrap());
        assert_eq!(admin["scope"], "admin");
    }

    #[test]
    fn a_bad_secret_is_refused_by_the_name_of_its_variable() {
        for (secret, error) in [(&b""[..], SecretError::Missing), (&SECRET[1..], SecretError::Short)] {
            let refusal = Signer::new(secret).err().unwrap();
            assert_eq!(refusal, error);
            assert!(refusal.to_string().contains("ONSALE_JWT_SECRET"));
        }
    }
}
