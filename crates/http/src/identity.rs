//! Who calls: bearer tokens, verified inside the function.
//!
//! [`edge`](crate::edge) puts the [`Authenticator`] into every request's extensions, so that a handler
//! only names [`Caller`] or [`Admin`] among its arguments and needs nothing in its state.
//!
//! A refusal tells a caller whether the token was missing or expired, which is what a client acts
//! upon, and otherwise only that it does not hold: why is nobody's help but a forger's.

mod jwks;

use crate::{ApiError, ConfigError, Env, Secret};
use axum::extract::FromRequestParts;
use http::{header::AUTHORIZATION, request::Parts};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use jwks::{KeySet, Remote};
use onsale_domain::{Problem, ProblemType, UserId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, sync::Arc, time::Duration};

/// Clocks of those who sign may differ from ours by this many seconds.
const LEEWAY_SECONDS: u64 = 30;
/// A token is a header among others; a longer one is none of ours.
const LONGEST_TOKEN: usize = 8 * 1024;
/// The fewest bytes a secret may have: as many as the digest it keys (RFC 7518 §3.2).
const SHORTEST_SECRET: usize = 32;
/// The scope that opens admin routes.
const ADMIN: &str = "admin";
const DOES_NOT_HOLD: &str = "The token does not hold.";

/// The user a request speaks for. As an argument of a handler it refuses with 401 whatever has no valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// `sub` of the token.
    pub user: UserId,
    /// Whether the token has the scope `admin`.
    pub admin: bool,
}

/// A caller with the scope `admin`; refuses others with 403.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin(pub Caller);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let authenticator = parts
            .extensions
            .get::<Authenticator>()
            .ok_or_else(|| anyhow::anyhow!("no authenticator: the router runs without its edge"))?;
        let token = bearer(parts)?;
        authenticator.verify(token).await
    }
}

impl<S: Sync> FromRequestParts<S> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        if caller.admin {
            Ok(Self(caller))
        } else {
            Err(ApiError::new(ProblemType::Forbidden, "This needs a token with the scope admin."))
        }
    }
}

/// The token of `Authorization: Bearer <token>`.
fn bearer(parts: &Parts) -> Result<&str, ApiError> {
    let mut values = parts.headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or_else(missing)?;
    if values.next().is_some() {
        // Two tokens may speak for two users; which one is meant cannot be known.
        return Err(invalid("The header Authorization must be sent once."));
    }
    let (scheme, token) = value.to_str().ok().and_then(|v| v.trim().split_once(' ')).ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    Ok(token.trim())
}

fn missing() -> ApiError {
    let detail = "Send the header Authorization: Bearer <token>.";
    ApiError::Challenge(Problem::new(ProblemType::Unauthorized, detail), "Bearer")
}

fn invalid(detail: &str) -> ApiError {
    ApiError::Challenge(Problem::new(ProblemType::Unauthorized, detail), r#"Bearer error="invalid_token""#)
}

/// Verifies tokens with the one key source that is configured.
#[derive(Clone)]
pub struct Authenticator(Arc<Inner>);

struct Inner {
    keys: Keys,
    rules: Rules,
}

enum Keys {
    /// HS256, for local runs.
    Secret(DecodingKey),
    /// RS256 and ES256, given with the settings.
    Inline(Arc<KeySet>),
    /// RS256 and ES256, fetched.
    Remote(Arc<Remote>),
}

/// What a token must say, by algorithm: a key is only ever used with its own.
struct Rules {
    hs256: Validation,
    rs256: Validation,
    es256: Validation,
}

impl Rules {
    fn new(issuer: Option<&str>, audience: Option<&str>) -> Self {
        let rules = |algorithm| {
            let mut v = Validation::new(algorithm);
            v.leeway = LEEWAY_SECONDS;
            v.validate_nbf = true;
            let mut required = vec!["exp", "sub"];
            if let Some(issuer) = issuer {
                v.set_issuer(&[issuer]);
                required.push("iss");
            }
            // Where no audience is configured, a token that names one is refused: it was made for
            // somebody else (RFC 7519 §4.1.3).
            if let Some(audience) = audience {
                v.set_audience(&[audience]);
                required.push("aud");
            }
            v.set_required_spec_claims(&required);
            v
        };
        Self { hs256: rules(Algorithm::HS256), rs256: rules(Algorithm::RS256), es256: rules(Algorithm::ES256) }
    }

    fn of(&self, algorithm: Algorithm) -> Option<&Validation> {
        match algorithm {
            Algorithm::HS256 => Some(&self.hs256),
            Algorithm::RS256 => Some(&self.rs256),
            Algorithm::ES256 => Some(&self.es256),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    #[serde(default)]
    scope: Scope,
}

/// A space separated text (RFC 8693) or, as some issuers write it, an array.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Scope {
    Text(String),
    List(Vec<String>),
    #[default]
    None,
    Other(serde::de::IgnoredAny),
}

impl Scope {
    fn contains(&self, name: &str) -> bool {
        match self {
            Self::Text(text) => text.split(' ').any(|s| s == name),
            Self::List(list) => list.iter().any(|s| s == name),
            Self::None | Self::Other(_) => false,
        }
    }
}

impl Authenticator {
    /// Reads the settings. Exactly one of `ONSALE_JWT_SECRET` (HS256, at least 32 bytes), `ONSALE_JWKS` (inline)
    /// and `ONSALE_JWKS_URL` must be set; `ONSALE_JWT_ISSUER` and `ONSALE_JWT_AUDIENCE` are optional. A key set by
    /// URL is fetched at once; if that fails, the next request tries again.
    pub async fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let secret: Option<Secret> = env.optional("ONSALE_JWT_SECRET")?;
        let inline: Option<Secret> = env.optional("ONSALE_JWKS")?;
        let url: Option<String> = env.optional("ONSALE_JWKS_URL")?;
        let issuer: Option<String> = env.optional("ONSALE_JWT_ISSUER")?;
        let audience: Option<String> = env.optional("ONSALE_JWT_AUDIENCE")?;
        let keys = match (secret, inline, url) {
            (Some(secret), None, None) => Self::secret_key(&secret)?,
            (None, Some(json), None) => {
                let set = KeySet::parse(json.expose().as_bytes());
                Keys::Inline(Arc::new(set.map_err(|wrong| ConfigError::new("ONSALE_JWKS", wrong))?))
            }
            (None, None, Some(url)) => {
                let remote = Arc::new(Remote::new(url, env)?);
                remote.warm().await;
                Keys::Remote(remote)
            }
            _ => {
                return Err(ConfigError::new(
                    "ONSALE_JWT_SECRET, ONSALE_JWKS, ONSALE_JWKS_URL",
                    "exactly one of them must be set",
                ));
            }
        };
        Ok(Self(Arc::new(Inner { keys, rules: Rules::new(issuer.as_deref(), audience.as_deref()) })))
    }

    /// One that takes tokens of [`local_token`] with the same secret.
    pub fn from_secret(secret: &Secret) -> Result<Self, ConfigError> {
        Ok(Self(Arc::new(Inner { keys: Self::secret_key(secret)?, rules: Rules::new(None, None) })))
    }

    fn secret_key(secret: &Secret) -> Result<Keys, ConfigError> {
        let bytes = secret.expose().as_bytes();
        if bytes.len() < SHORTEST_SECRET {
            return Err(ConfigError::new("ONSALE_JWT_SECRET", "must have 32 bytes or more"));
        }
        Ok(Keys::Secret(DecodingKey::from_secret(bytes)))
    }

    /// The caller `token` speaks for, or the refusal.
    pub async fn verify(&self, token: &str) -> Result<Caller, ApiError> {
        let refused = || invalid(DOES_NOT_HOLD);
        if token.len() > LONGEST_TOKEN {
            return Err(refused());
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| refused())?;
        if header.crit.is_some() {
            // Extensions the signer calls critical and we do not know (RFC 7515 §4.1.11).
            return Err(refused());
        }
        let rules = self.0.rules.of(header.alg).ok_or_else(refused)?;
        // The key decides which algorithm is taken, the header only which of the keys: with a key set,
        // HS256 finds none, and so no public key can pass as a secret.
        let set = match &self.0.keys {
            Keys::Secret(key) if header.alg == Algorithm::HS256 => return check(token, key, rules).map(|v| v.caller),
            Keys::Secret(_) => return Err(refused()),
            Keys::Inline(set) => set.clone(),
            Keys::Remote(remote) => remote.keys_with(header.kid.as_deref(), header.alg).await?,
        };
        let digest = Sha256::digest(token).into();
        if let Some(known) = set.verified.get(&digest).await
            && known.expires > jsonwebtoken::get_current_timestamp() as f64
        {
            return Ok(known.caller);
        }
        let verified = check(token, set.find(header.kid.as_deref(), header.alg).ok_or_else(refused)?, rules)?;
        set.verified.insert(digest, verified.clone()).await;
        Ok(verified.caller)
    }
}

/// What a token that held says.
#[derive(Clone)]
struct Verified {
    caller: Caller,
    /// Seconds since the Unix epoch.
    expires: f64,
}

fn check(token: &str, key: &DecodingKey, rules: &Validation) -> Result<Verified, ApiError> {
    // The signature is checked before any claim: only who holds a real token learns that it expired.
    let claims: Claims =
        jsonwebtoken::decode(token, key, rules).map(|data| data.claims).map_err(|e| match e.kind() {
            ErrorKind::ExpiredSignature => invalid("The token has expired; get a new one."),
            ErrorKind::ImmatureSignature => invalid("The token is not valid yet."),
            _ => invalid(DOES_NOT_HOLD),
        })?;
    let user = UserId::parse(&claims.sub).map_err(|_| invalid(DOES_NOT_HOLD))?;
    Ok(Verified { caller: Caller { user, admin: claims.scope.contains(ADMIN) }, expires: claims.exp })
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.0.keys {
            Keys::Secret(_) => "secret",
            Keys::Inline(_) => "inline key set",
            Keys::Remote(_) => "key set by URL",
        };
        f.debug_tuple("Authenticator").field(&source).finish()
    }
}

/// Makes a token for local runs and tests, signed with HS256.
pub fn local_token(secret: &Secret, user: &UserId, admin: bool, valid_for: Duration) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Local<'a> {
        sub: &'a UserId,
        exp: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        scope: Option<&'a str>,
    }
    let exp = jsonwebtoken::get_current_timestamp() + valid_for.as_secs();
    let claims = Local { sub: user, exp, scope: admin.then_some(ADMIN) };
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)?)
}
