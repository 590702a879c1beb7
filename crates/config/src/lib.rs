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
    pub fn required<T: FromStr>(&self, name: &str) -> Result<T, ConfigError> {
        self.optional(name)?.ok_or_else(|| ConfigError::new(name, "must be set"))
    }

    /// The value of a variable, if it is set.
    pub fn optional<T: FromStr>(&self, name: &str) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        // The parser's own words are left out: some of them quote what they could not read.
        text.parse().map(Some).map_err(|_| ConfigError::new(name, format!("must be {}", described::<T>())))
    }

    /// The value of a variable, or `default` where it is unset.
    pub fn or<T: FromStr>(&self, name: &str, default: T) -> Result<T, ConfigError> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// Like [`Env::or`], and the value must lie in `range`.
    pub fn within<T>(&self, name: &str, default: T, range: RangeInclusive<T>) -> Result<T, ConfigError>
    where
        T: FromStr + PartialOrd + Display,
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
        let unit = if name.ends_with("_MS") {
            Duration::from_millis(1)
        } else if name.ends_with("_SECONDS") {
            Duration::from_secs(1)
        } else {
            return Err(ConfigError::new(name, "a name of a time span must end in _MS or _SECONDS"));
        };
        let count = |d: &Duration| d.as_millis() / unit.as_millis();
        let wrong = || ConfigError::new(name, format!("must be {} to {}", count(range.start()), count(range.end())));
        let value = self.optional::<u32>(name).map_err(|_| wrong())?.map_or(default, |n| unit * n);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::SocketAddr, os::unix::ffi::OsStringExt};

    fn env() -> Env {
        [("PORT", "3000"), ("EMPTY", " "), ("WORD", "hunter2"), ("WAIT_MS", "250"), ("AGE_SECONDS", "90")]
            .into_iter()
            .collect()
    }

    #[test]
    fn values_are_typed() {
        let env = env();
        assert_eq!(env.required::<u16>("PORT").unwrap(), 3000);
        assert_eq!(env.optional::<u16>("NONE").unwrap(), None);
        assert_eq!(env.optional::<u16>("EMPTY").unwrap(), None);
        assert_eq!(env.or("EMPTY", 7_u16).unwrap(), 7);
        assert_eq!(env.within("PORT", 1, 1..=4000_u16).unwrap(), 3000);
        let range = Duration::from_millis(1)..=Duration::from_secs(100);
        assert_eq!(env.duration("WAIT_MS", Duration::ZERO, range.clone()).unwrap(), Duration::from_millis(250));
        assert_eq!(env.duration("AGE_SECONDS", Duration::ZERO, range.clone()).unwrap(), Duration::from_secs(90));
        assert_eq!(env.duration("NONE_MS", Duration::from_secs(1), range).unwrap(), Duration::from_secs(1));
    }

    #[test]
    fn errors_name_the_variable_and_never_the_value() {
        let env = env();
        let second = Duration::from_secs(1);
        let errors = [
            env.required::<u16>("NONE").unwrap_err(),
            env.required::<Secret>("EMPTY").unwrap_err(),
            env.required::<u16>("WORD").unwrap_err(),
            env.required::<SocketAddr>("WORD").unwrap_err(),
            env.required::<bool>("WORD").unwrap_err(),
            env.within("WORD", 1, 1..=5_u32).unwrap_err(),
            env.within("PORT", 1, 1..=5_u32).unwrap_err(),
            env.duration("WAIT_MS", second, second..=second).unwrap_err(),
            env.duration("AGE_SECONDS", second, second..=second).unwrap_err(),
            env.duration("WORD", second, second..=second).unwrap_err(),
        ]
        .map(|e| e.to_string());
        assert_eq!(
            errors,
            [
                "NONE: must be set",
                "EMPTY: must be set",
                "WORD: must be a whole number from 0 to 65535",
                "WORD: must be an address with a port, such as 127.0.0.1:3000",
                "WORD: must be true or false",
                "WORD: must be 1 to 5",
                "PORT: must be 1 to 5",
                "WAIT_MS: must be 1000 to 1000",
                "AGE_SECONDS: must be 1 to 1",
                "WORD: a name of a time span must end in _MS or _SECONDS",
            ]
        );
        let binary: Env = [("B", OsString::from_vec(vec![0xff]))].into_iter().collect();
        assert_eq!(binary.required::<String>("B").unwrap_err().to_string(), "B: must be UTF-8");
    }

    #[test]
    fn nothing_secret_is_shown() {
        let env = env();
        let secret: Secret = env.required("WORD").unwrap();
        assert_eq!(secret.expose(), "hunter2");
        assert!(!format!("{secret:?} {env:?}").contains("hunter2"));
    }

    #[test]
    fn the_process_has_an_environment() {
        assert!(Env::from_process().optional::<String>("PATH").unwrap().is_some());
    }
}
