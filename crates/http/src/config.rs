//! Settings, read once at start from the environment.
//!
//! A value that cannot be used stops the start with an error that names its variable and says what was
//! expected. No value is ever repeated in an error: nobody has to know which ones are secret.

use std::{
    collections::HashMap,
    ffi::OsString,
    fmt::{self, Display},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

/// A setting that is missing or unusable. Its text names the variable and never holds the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {expected}")]
pub struct ConfigError {
    /// The variable.
    pub name: String,
    /// What it must be.
    pub expected: String,
}

impl ConfigError {
    /// An error about `name`; `expected` reads on from it: "must be …".
    pub fn new(name: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { name: name.into(), expected: expected.into() }
    }
}

/// The environment as it was at start. An empty variable counts as unset, as compose files and
/// templates write it.
#[derive(Clone, Default)]
pub struct Env {
    variables: HashMap<OsString, OsString>,
}

impl Env {
    /// The variables of this process.
    pub fn from_process() -> Self {
        std::env::vars_os().collect()
    }

    /// The value of a variable that must be set.
    pub fn required<T>(&self, name: &str) -> Result<T, ConfigError>
    where
        T: FromStr<Err: Display>,
    {
        self.optional(name)?.ok_or_else(|| ConfigError::new(name, "must be set"))
    }

    /// The value of a variable, if it is set.
    pub fn optional<T>(&self, name: &str) -> Result<Option<T>, ConfigError>
    where
        T: FromStr<Err: Display>,
    {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|e: T::Err| {
            // The parser's own words are left out: some of them quote what they could not read.
            let _ = e;
            ConfigError::new(name, format!("must be {}", described::<T>()))
        })
    }

    /// The value of a variable, or `default` where it is unset.
    pub fn or<T>(&self, name: &str, default: T) -> Result<T, ConfigError>
    where
        T: FromStr<Err: Display>,
    {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// Like [`Env::or`], and the value must lie in `range`.
    pub fn within<T>(&self, name: &str, default: T, range: RangeInclusive<T>) -> Result<T, ConfigError>
    where
        T: FromStr<Err: Display> + PartialOrd + Display,
    {
        let wrong = || ConfigError::new(name, format!("must be {} to {}", range.start(), range.end()));
        let value = self.or(name, default).map_err(|_| wrong())?;
        if range.contains(&value) { Ok(value) } else { Err(wrong()) }
    }

    /// A time span. The name says the unit: it ends in `_MS` or `_SECONDS`.
    pub fn duration(
        &self,
        name: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, ConfigError> {
        let (unit, count): (fn(u64) -> Duration, fn(Duration) -> u128) = if name.ends_with("_MS") {
            (Duration::from_millis, |d| d.as_millis())
        } else if name.ends_with("_SECONDS") {
            (Duration::from_secs, |d| u128::from(d.as_secs()))
        } else {
            return Err(ConfigError::new(name, "a name of a time span must end in _MS or _SECONDS"));
        };
        let wrong = || ConfigError::new(name, format!("must be {} to {}", count(*range.start()), count(*range.end())));
        let value = self.optional::<u64>(name).map_err(|_| wrong())?.map_or(default, unit);
        if range.contains(&value) { Ok(value) } else { Err(wrong()) }
    }

    fn text(&self, name: &str) -> Result<Option<&str>, ConfigError> {
        match self.variables.get(std::ffi::OsStr::new(name)) {
            None => Ok(None),
            Some(value) => match value.to_str() {
                None => Err(ConfigError::new(name, "must be UTF-8")),
                Some(text) => Ok(Some(text.trim()).filter(|t| !t.is_empty())),
            },
        }
    }
}

/// The type in words where Rust's name for it would puzzle an operator.
fn described<T>() -> String {
    let name = std::any::type_name::<T>();
    let last = name.rsplit("::").next().unwrap_or(name);
    match last {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" | "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i32" | "i64" => "a whole number".to_owned(),
        "f64" => "a number".to_owned(),
        "bool" => "true or false".to_owned(),
        "SocketAddr" => "an address with a port, such as 127.0.0.1:3000".to_owned(),
        other => format!("a valid {other}"),
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self { variables: pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect() }
    }
}

impl fmt::Debug for Env {
    /// Names only: some of the values are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.variables.keys().collect();
        names.sort();
        f.debug_tuple("Env").field(&names).finish()
    }
}

/// A value that never appears in a log: its `Debug` is redacted and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value, to be handed on at once.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(Self(s.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
