//! What can be wrong with a configuration: [`ConfigError`].

use std::path::PathBuf;

use backplane_core::{InvalidName, InvalidOption};

/// What is wrong with the configuration of a node. One variant per mistake.
///
/// Never contains the URL, a password or the value of an option: the text is safe to log (rule V3).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is not a URL.
    #[error(
        "the Redis URL is malformed: {problem} (characters such as `@`, `/`, `?` and `#` in a user name or \
         password must be percent-encoded)"
    )]
    MalformedUrl {
        /// What the parser says.
        problem: &'static str,
    },
    /// The URL has a scheme that this backend does not know.
    #[error("the Redis URL has the scheme `{scheme}`, not redis, rediss, unix or redis+unix")]
    UnsupportedScheme {
        /// The scheme.
        scheme: String,
    },
    /// The URL has the scheme `rediss`, and the crate was built without TLS.
    #[error("rediss:// needs the feature `tls` of the crate backplane-redis")]
    TlsNotEnabled,
    /// Unix sockets do not exist on this platform.
    #[error("unix sockets are not supported on this platform")]
    UnixNotSupported,
    /// The URL names no host, or a unix URL names no absolute path.
    #[error("the Redis URL names no {0}")]
    MissingAddress(&'static str),
    /// The user name or the password is not UTF-8 once it is decoded.
    #[error("the {0} in the Redis URL is not UTF-8")]
    NotUtf8(&'static str),
    /// There is a user name, and no password. Redis is sent both or neither.
    #[error(
        "there is a user name but no password (a password alone is written redis://:password@host)"
    )]
    MissingPassword,
    /// The path of the URL is not a database number.
    #[error("the path of the Redis URL is not a database number such as `/0`")]
    InvalidDatabase,
    /// The URL has a fragment.
    #[error("the Redis URL has a fragment (a `#` in a password must be written %23)")]
    Fragment,
    /// The URL has an option that does not exist (rule M4).
    #[error("the Redis URL has the unknown option `{name}`")]
    UnknownOption {
        /// The option. `...` when it is not a plain word, as it may be a part of a password then.
        name: String,
    },
    /// The URL has an option twice.
    #[error("the Redis URL has the option `{name}` twice")]
    DuplicateOption {
        /// The option.
        name: String,
    },
    /// An option has a value that it cannot have.
    #[error("option {name}: {problem}")]
    InvalidValue {
        /// The option.
        name: &'static str,
        /// What is wrong with its value.
        problem: &'static str,
    },
    /// The prefix is not one.
    #[error("option prefix: {0}")]
    InvalidPrefix(#[source] InvalidName),
    /// No prefix was given. It is not empty by default: an unset variable must not join another deployment
    /// by accident.
    #[error(
        "no prefix was given: add ?prefix=NAME to the Redis URL, or call prefix(), with \
         Prefix::unprefixed() to share the broker's names with everyone"
    )]
    MissingPrefix,
    /// An authority for TLS was given, and the connection does not use TLS.
    #[error("option ca_cert: only rediss:// has a use for it")]
    UselessCaCert,
    /// The file of the authority cannot be used.
    #[error("option ca_cert: {path:?}: {problem}", path = path.display())]
    CaCert {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An option of the node has an impossible value.
    #[error(transparent)]
    Node(#[from] InvalidOption),
    /// The client library does not take the address.
    #[error("the Redis client does not take the configuration: {problem}")]
    Client {
        /// What it says.
        problem: String,
    },
}
