//! Public keys: a JSON Web Key Set (RFC 7517), inline or by URL.

use super::Verified;
use crate::{ApiError, ConfigError, Env};
use anyhow::Context as _;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use moka::future::Cache;
use serde::Deserialize;
use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{sync::Mutex, time::Instant};

/// Between two fetches: neither a flood of unknown key ids nor a dead issuer makes more.
const BETWEEN_FETCHES: Duration = Duration::from_secs(30);
/// The same while no key is known at all and so every request is refused.
const BETWEEN_FIRST_FETCHES: Duration = Duration::from_secs(1);
/// After this, keys are fetched again, so that one withdrawn by its issuer stops being trusted.
const MAX_AGE: Duration = Duration::from_secs(600);
/// How many verified tokens are remembered; about 4 MB.
const MOST_VERIFIED: u64 = 16_384;

/// The keys of a set that can be used: RSA with RS256, P-256 with ES256.
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// Tokens these keys have verified, by their SHA-256: RS256 and ES256 cost some hundred microseconds, more
    /// than all else a request does here. It goes with the keys, and so does the trust in it.
    pub(super) verified: Cache<[u8; 32], Verified>,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
}

#[derive(Deserialize)]
struct Document {
    // Key by key: one of a kind we do not know must not spoil the others.
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    fn new(keys: Vec<Key>) -> Self {
        Self { keys, verified: Cache::new(MOST_VERIFIED) }
    }

    pub(super) fn parse(json: &[u8]) -> Result<Self, &'static str> {
        let document: Document =
            serde_json::from_slice(json).map_err(|_| r#"must be a JSON Web Key Set: {"keys":[…]}"#)?;
        let keys: Vec<Key> = document.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() {
            return Err("must hold an RSA key of 2048 bits or more for RS256, or a P-256 key for ES256");
        }
        Ok(Self::new(keys))
    }

    /// The key `id` for `algorithm`. A token without an id is taken where only one key can be meant.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let mut fitting =
            self.keys.iter().filter(|k| k.algorithm == algorithm && (id.is_none() || k.id.as_deref() == id));
        let first = fitting.next()?;
        if id.is_none() && fitting.next().is_some() {
            return None;
        }
        Some(&first.decoding)
    }
}

fn usable(json: serde_json::Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(json).ok()?;
    if jwk.common.public_key_use.as_ref().is_some_and(|u| *u != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => Algorithm::ES256,
        _ => return None,
    };
    if jwk.common.key_algorithm.is_some_and(|named| named != KeyAlgorithm::from(algorithm)) {
        return None;
    }
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    if let jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } = decoding.kind()
        && n.len() < 2048 / 8
    {
        return None;
    }
    Some(Key { id: jwk.common.key_id, algorithm, decoding })
}

/// A key set by URL, kept, and fetched again when it is old or lacks a key.
pub(super) struct Remote {
    url: String,
    client: reqwest::Client,
    known: RwLock<Known>,
    /// When the last fetch began. Held while one runs, so that there is one at a time.
    last: Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct Known {
    keys: Arc<KeySet>,
    fetched: Option<Instant>,
}

impl Remote {
    pub(super) fn new(url: String, env: &Env) -> Result<Self, ConfigError> {
        let wrong = || ConfigError::new("ONSALE_JWKS_URL", "must be an http or https URL");
        let parsed = reqwest::Url::parse(&url).map_err(|_| wrong())?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(wrong());
        }
        let timeout = env.duration(
            "ONSALE_JWKS_TIMEOUT_MS",
            Duration::from_secs(2),
            Duration::from_millis(10)..=Duration::from_secs(30),
        )?;
        let client = reqwest::Client::builder()
            .timeout(timeout)
            .build()
            .map_err(|_| ConfigError::new("ONSALE_JWKS_URL", "no HTTPS client can be made on this machine"))?;
        let nothing = Known { keys: Arc::new(KeySet::new(Vec::new())), fetched: None };
        Ok(Self { url, client, known: RwLock::new(nothing), last: Mutex::default() })
    }

    /// Fetches for the first time; a failure is logged and left to the first request.
    pub(super) async fn warm(self: &Arc<Self>) {
        self.clone().refresh(|_| false).await;
    }

    /// The newest keys, among them the one asked for if it can be had.
    pub(super) async fn keys_with(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<KeySet>, ApiError> {
        let known = self.known();
        let found = known.keys.find(id, algorithm).is_some();
        if found && known.fetched.is_some_and(|at| at.elapsed() < MAX_AGE) {
            return Ok(known.keys);
        }
        // One request fetches what is old; the others meanwhile go on with what there is.
        if !found || self.last.try_lock().is_ok() {
            let id = id.map(ToOwned::to_owned);
            let enough = move |known: &Known| {
                known.keys.find(id.as_deref(), algorithm).is_some()
                    && known.fetched.is_some_and(|at| at.elapsed() < MAX_AGE)
            };
            // In a task of its own: a caller who hangs up must not cut short what others wait for.
            let _ = tokio::spawn(self.clone().refresh(enough)).await;
        }
        let known = self.known();
        if known.fetched.is_none() {
            let cause = anyhow::anyhow!("no keys could be fetched yet");
            return Err(ApiError::unavailable("Tokens cannot be checked at the moment.", cause));
        }
        Ok(known.keys)
    }

    async fn refresh(self: Arc<Self>, enough: impl Fn(&Known) -> bool) {
        let mut last = self.last.lock().await;
        let known = self.known();
        let pause = if known.fetched.is_some() { BETWEEN_FETCHES } else { BETWEEN_FIRST_FETCHES };
        // Another request may have fetched while this one waited for the lock.
        if enough(&known) || last.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        *last = Some(Instant::now());
        match self.fetch().await {
            Ok(keys) => {
                let known = Known { keys: Arc::new(keys), fetched: Some(Instant::now()) };
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
            }
            Err(e) => tracing::warn!(error = format!("{e:#}"), "key set not fetched; the known keys stay in use"),
        }
    }

    async fn fetch(&self) -> anyhow::Result<KeySet> {
        // Errors without the URL: it may carry a credential.
        let response = self.client.get(&self.url).send().await.map_err(reqwest::Error::without_url)?;
        let response = response.error_for_status().map_err(reqwest::Error::without_url)?;
        let body = response.bytes().await.map_err(reqwest::Error::without_url).context("reading the key set")?;
        KeySet::parse(&body).map_err(|wrong| anyhow::anyhow!("the key set {wrong}"))
    }

    fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
