//! Where requests go: plain HTTP on this machine, and nowhere else.

use http::{HeaderValue, Uri};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// An HTTP server on a loopback address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// The `Host` header of every request.
    pub host: HeaderValue,
}

impl Target {
    /// Parses `http://127.0.0.1:3000`; the scheme may be left out. Whatever is not loopback is refused: a load
    /// generator with a typing error in its address is an attack on somebody.
    pub fn parse(text: &str) -> Result<Self, String> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = with_scheme.parse().map_err(|e| format!("not a URL such as http://127.0.0.1:3000: {e}"))?;
        if uri.scheme_str() != Some("http") {
            return Err("must start with http://".to_owned());
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err("must name a server only, without a path".to_owned());
        }
        let authority = uri.authority().ok_or("has no host")?;
        if authority.as_str().contains('@') {
            return Err("must not hold a user name".to_owned());
        }
        let ip = loopback(authority.host()).ok_or_else(|| {
            format!(
                "{} is not this machine: rush sends load to loopback only (127.0.0.0/8, ::1, localhost)",
                authority.host()
            )
        })?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|e| e.to_string())?;
        Ok(Self { address: SocketAddr::new(ip, authority.port_u16().unwrap_or(80)), host })
    }
}

/// The address of `host` if it is one of this machine's own. Names are not resolved, so that a resolver cannot
/// send the load elsewhere.
fn loopback(host: &str) -> Option<IpAddr> {
    if host.eq_ignore_ascii_case("localhost") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok().filter(IpAddr::is_loopback)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_in_every_spelling() {
        for (text, address) in [
            ("http://127.0.0.1:3000", "127.0.0.1:3000"),
            ("http://127.0.0.1:3000/", "127.0.0.1:3000"),
            ("127.8.9.1:1", "127.8.9.1:1"),
            ("localhost:9100", "127.0.0.1:9100"),
            ("http://LOCALHOST", "127.0.0.1:80"),
            ("http://[::1]:3000", "[::1]:3000"),
        ] {
            let target = Target::parse(text);
            assert_eq!(target.map(|t| t.address), Ok(address.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn nothing_else() {
        for (text, why) in [
            ("http://10.0.0.1:3000", "not this machine"),
            ("http://0.0.0.0:3000", "not this machine"),
            ("http://example.com", "not this machine"),
            ("http://localhost.example.com", "not this machine"),
            ("http://127.0.0.1.example.com", "not this machine"),
            ("http://[::ffff:10.0.0.1]:1", "not this machine"),
            ("http://localhost@example.com", "user name"),
            ("https://127.0.0.1", "http://"),
            ("http://127.0.0.1/v1", "without a path"),
            ("http://127.0.0.1?x=1", "without a path"),
            ("", "not a URL"),
        ] {
            let refusal = Target::parse(text).unwrap_err();
            assert!(refusal.contains(why), "{text}: {refusal}");
        }
    }
}
