//! Where a node connects to and as whom: [`Config`], and how it is read from a URL.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::error::ConfigError;
use crate::setting::Setting;

const DEFAULT_PORT: u16 = 6379;
const DEFAULT_CLIENT_NAME: &str = "backplane";
const MAX_CLIENT_NAME_LEN: usize = 64;

/// Where to connect to, and as whom.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) address: Address,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: u32,
    pub(crate) client_name: String,
    pub(crate) ca_cert: Option<PathBuf>,
}

/// The address of a server. Shown as a URL without credentials and options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// An IPv6 host has no brackets here.
    Tcp {
        host: String,
        port: u16,
        tls: bool,
    },
    Unix(PathBuf),
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Config {
    /// Reads a URL: the connection, and the options of the node in it.
    pub(crate) fn parse(url: &str) -> Result<(Self, Vec<Setting>), ConfigError> {
        let url = Url::parse(url).map_err(|error| ConfigError::MalformedUrl {
            problem: problem_of(error),
        })?;
        let address = Address::parse(&url)?;
        if url.fragment().is_some() {
            return Err(ConfigError::Fragment);
        }
        let is_unix = matches!(address, Address::Unix(_));
        let mut config = Self {
            address,
            username: Some(decoded(url.username(), "user name")?).filter(|user| !user.is_empty()),
            password: url
                .password()
                .map(|p| decoded(p, "password"))
                .transpose()?
                .map(Secret),
            database: 0,
            client_name: DEFAULT_CLIENT_NAME.to_owned(),
            ca_cert: None,
        };
        if !is_unix {
            let path = url.path();
            let path = path.strip_prefix('/').unwrap_or(path);
            if !path.is_empty() {
                config.database = database(path).ok_or(ConfigError::InvalidDatabase)?;
            }
        }
        let settings = config.read_options(url.query().unwrap_or_default(), is_unix)?;
        Ok((config, settings))
    }

    fn read_options(&mut self, query: &str, is_unix: bool) -> Result<Vec<Setting>, ConfigError> {
        let mut settings = Vec::new();
        let mut seen = HashSet::new();
        // The rest of a password that was not percent-encoded looks like options.
        let discreet = query.contains('@') || (is_unix && query.contains("pass="));
        let shown = |name| shown(name, discreet).to_owned();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match (name, is_unix) {
                ("user", true) => {
                    self.username = Some(decoded(value, "user name")?).filter(|u| !u.is_empty());
                }
                ("pass", true) => {
                    let password = Some(decoded(value, "password")?).filter(|p| !p.is_empty());
                    self.password = password.map(Secret);
                }
                ("db", true) => {
                    self.database = database(value).ok_or(ConfigError::InvalidValue {
                        name: "db",
                        problem: "is no database number",
                    })?;
                }
                _ => {
                    let value = decoded(value, "value of an option")?;
                    let Some(setting) = self.read_option(name, value) else {
                        return Err(ConfigError::UnknownOption { name: shown(name) });
                    };
                    settings.extend(setting?);
                }
            }
            if !seen.insert(name) {
                return Err(ConfigError::DuplicateOption { name: shown(name) });
            }
        }
        Ok(settings)
    }

    /// Reads an option that any address may have; `None` when there is none of this name.
    fn read_option(
        &mut self,
        name: &str,
        value: String,
    ) -> Option<Result<Option<Setting>, ConfigError>> {
        match name {
            "protocol" => return Some(check_protocol(&value).map(|()| None)),
            "client_name" => self.client_name = value,
            "ca_cert" => self.ca_cert = Some(value.into()),
            _ => return Setting::parse(name, &value).map(|setting| setting.map(Some)),
        }
        Some(Ok(None))
    }

    /// Checks what depends on several parts, once all of them are known.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.username.is_some() && self.password.is_none() {
            return Err(ConfigError::MissingPassword);
        }
        let name = self.client_name.as_bytes();
        if name.is_empty()
            || name.len() > MAX_CLIENT_NAME_LEN
            || !name.iter().all(u8::is_ascii_graphic)
        {
            let problem = "must be 1 to 64 visible ASCII characters, without spaces";
            return Err(ConfigError::InvalidValue {
                name: "client_name",
                problem,
            });
        }
        if self.ca_cert.is_some() && !matches!(self.address, Address::Tcp { tls: true, .. }) {
            return Err(ConfigError::UselessCaCert);
        }
        Ok(())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A user name without a password may be a password in the wrong place.
        let username = self.username.as_deref().filter(|_| self.password.is_some());
        f.debug_struct("Config")
            .field("address", &format_args!("{}", self.address))
            .field("username", &username)
            .field("password", &self.password)
            .field("database", &self.database)
            .field("client_name", &self.client_name)
            .field("ca_cert", &self.ca_cert)
            .finish()
    }
}

impl Address {
    fn parse(url: &Url) -> Result<Self, ConfigError> {
        let tls = match url.scheme() {
            "redis" => false,
            "rediss" if cfg!(feature = "tls") => true,
            "rediss" => return Err(ConfigError::TlsNotEnabled),
            "unix" | "redis+unix" => return Self::parse_unix(url),
            scheme => {
                return Err(ConfigError::UnsupportedScheme {
                    scheme: scheme.to_owned(),
                });
            }
        };
        let host = match url.host() {
            Some(Host::Domain(host)) => decoded(host, "host")?,
            Some(Host::Ipv4(host)) => host.to_string(),
            Some(Host::Ipv6(host)) => host.to_string(),
            None => return Err(ConfigError::MissingAddress("host")),
        };
        Ok(Self::Tcp {
            host,
            port: url.port().unwrap_or(DEFAULT_PORT),
            tls,
        })
    }

    #[cfg(unix)]
    fn parse_unix(url: &Url) -> Result<Self, ConfigError> {
        let missing = || ConfigError::MissingAddress("absolute path (unix:///path/to/socket)");
        if url.has_host() || !url.path().starts_with('/') {
            return Err(missing());
        }
        url.to_file_path().map(Self::Unix).map_err(|()| missing())
    }

    #[cfg(not(unix))]
    fn parse_unix(_: &Url) -> Result<Self, ConfigError> {
        Err(ConfigError::UnixNotSupported)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, tls } => {
                f.write_str(if *tls { "rediss://" } else { "redis://" })?;
                if host.contains(':') {
                    write!(f, "[{host}]:{port}")
                } else {
                    write!(f, "{host}:{port}")
                }
            }
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl Secret {
    pub(crate) fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"***\"")
    }
}

/// Undoes percent-encoding. A `+` stays a plus.
fn decoded(text: &str, what: &'static str) -> Result<String, ConfigError> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(ConfigError::NotUtf8(what)),
    }
}

fn database(digits: &str) -> Option<u32> {
    digits
        .bytes()
        .all(|digit| digit.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()
}

fn check_protocol(protocol: &str) -> Result<(), ConfigError> {
    let problem = match protocol {
        "resp3" | "3" => return Ok(()),
        "resp2" | "2" => {
            "only resp3 will do: under RESP2 a connection that subscribes has no order between its \
             replies and its messages"
        }
        _ => "is no protocol; the only choice is resp3",
    };
    Err(ConfigError::InvalidValue {
        name: "protocol",
        problem,
    })
}

/// The name of an option if it is safe to show.
fn shown(name: &str, discreet: bool) -> &str {
    let is_word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
    if !discreet && name.len() <= 40 && name.bytes().all(is_word) {
        name
    } else {
        "..."
    }
}

/// What the parser says. Its texts are fixed and quote nothing; this makes sure of it.
const fn problem_of(error: url::ParseError) -> &'static str {
    use url::ParseError;
    match error {
        ParseError::EmptyHost => "it has no host",
        ParseError::InvalidPort => "its port is not a number below 65536",
        ParseError::InvalidIpv6Address => "its IPv6 address is invalid",
        ParseError::InvalidIpv4Address => "its IPv4 address is invalid",
        ParseError::InvalidDomainCharacter | ParseError::IdnaError => "its host is invalid",
        ParseError::RelativeUrlWithoutBase => "it has no scheme such as redis://",
        _ => "it is not a URL",
    }
}

#[cfg(test)]
mod tests;
