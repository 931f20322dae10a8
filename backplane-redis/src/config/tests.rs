use std::time::Duration;

use backplane_core::Prefix;

use super::*;

fn parse(url: &str) -> (Config, Vec<Setting>) {
    Config::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn refused(url: &str) -> ConfigError {
    match Config::parse(url).and_then(|(config, _)| config.validate()) {
        Ok(()) => panic!("{url} was not refused"),
        Err(error) => error,
    }
}

#[test]
fn the_address_is_read_from_the_url() {
    for (url, address) in [
        ("redis://localhost", "redis://localhost:6379"),
        ("redis://localhost/", "redis://localhost:6379"),
        ("redis://localhost:", "redis://localhost:6379"),
        ("redis://localhost:7000", "redis://localhost:7000"),
        ("REDIS://localhost:7000", "redis://localhost:7000"),
        ("redis://10.0.0.1:7000/5", "redis://10.0.0.1:7000"),
        ("redis://[::1]", "redis://[::1]:6379"),
        (
            "redis://u:p@[fe80::1]:7000/5?prefix=a",
            "redis://[fe80::1]:7000",
        ),
    ] {
        assert_eq!(parse(url).0.address.to_string(), address, "{url}");
    }
    let (config, _) = parse("redis://[::1]:7000");
    let expected = Address::Tcp {
        host: "::1".to_owned(),
        port: 7000,
        tls: false,
    };
    assert_eq!(config.address, expected);
}

#[cfg(unix)]
#[test]
fn a_unix_socket_has_its_options_in_the_query() {
    for (url, path) in [
        ("unix:///run/redis.sock", "/run/redis.sock"),
        ("redis+unix:///run/redis.sock", "/run/redis.sock"),
        ("unix:/run/redis.sock", "/run/redis.sock"),
        ("unix:///a%20b/%23?db=1", "/a b/#"),
    ] {
        assert_eq!(parse(url).0.address, Address::Unix(path.into()), "{url}");
    }
    let (config, settings) = parse("unix:///s?db=3&user=al%40ce&pass=p%26+w&prefix=a");
    assert_eq!(config.database, 3);
    assert_eq!(config.username.as_deref(), Some("al@ce"));
    assert_eq!(config.password.as_ref().map(Secret::expose), Some("p&+w"));
    assert_eq!(settings, [Setting::Prefix(Prefix::new("a").unwrap())]);
    assert!(matches!(
        refused("unix://run/redis.sock"),
        ConfigError::MissingAddress(_)
    ));
    assert!(matches!(
        refused("unix:run"),
        ConfigError::MissingAddress(_)
    ));
    assert!(matches!(
        refused("unix:///s?db=x"),
        ConfigError::InvalidValue { name: "db", .. }
    ));
}

#[test]
fn credentials_are_decoded() {
    for (url, username, password) in [
        ("redis://h", None, None),
        ("redis://:secret@h", None, Some("secret")),
        ("redis://alice:secret@h", Some("alice"), Some("secret")),
        (
            "redis://al%40ce:p%3A%2F%3F%23%25+@h",
            Some("al@ce"),
            Some("p:/?#%+"),
        ),
        ("redis://alice:p@ss@h", Some("alice"), Some("p@ss")),
        ("redis://alice:p%C3%A4@h", Some("alice"), Some("pä")),
    ] {
        let (config, _) = parse(url);
        config.validate().unwrap();
        assert_eq!(config.username.as_deref(), username, "{url}");
        assert_eq!(
            config.password.as_ref().map(Secret::expose),
            password,
            "{url}"
        );
    }
    assert!(matches!(
        refused("redis://:%FF@h"),
        ConfigError::NotUtf8("password")
    ));
    assert!(matches!(
        refused("redis://secret@h"),
        ConfigError::MissingPassword
    ));
    assert!(matches!(
        refused("redis://alice:@h"),
        ConfigError::MissingPassword
    ));
}

#[test]
fn options_of_the_node_are_read_from_the_url() {
    let url = "redis://h?prefix=a%3Ab+c&heartbeat_interval=250ms&queue_capacity=7&protocol=resp3&\
               client_name=web";
    let (config, settings) = parse(url);
    assert_eq!(config.client_name, "web");
    assert_eq!(
        settings,
        [
            Setting::Prefix(Prefix::new("a:b+c").unwrap()),
            Setting::HeartbeatInterval(Duration::from_millis(250)),
            Setting::QueueCapacity(7),
        ]
    );
}

#[test]
fn unknown_and_repeated_options_are_refused_by_name() {
    for name in [
        "prefixx",
        "Prefix",
        "db",
        "user",
        "pass",
        "timeout",
        "fallback-delay",
    ] {
        let error = refused(&format!("redis://h?prefix=a&{name}=1"));
        assert!(
            matches!(&error, ConfigError::UnknownOption { name: n } if n == name),
            "{name}: {error}"
        );
        assert!(error.to_string().contains(name));
    }
    for option in [
        "prefix=a",
        "protocol=resp3",
        "client_name=a",
        "max_pending=1",
    ] {
        let error = refused(&format!("redis://h?{option}&{option}"));
        let name = option.split('=').next().unwrap();
        assert!(
            matches!(&error, ConfigError::DuplicateOption { name: n } if n == name),
            "{name}: {error}"
        );
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (url, text) in [
        ("", "has no scheme"),
        ("localhost", "has no scheme"),
        ("localhost:6379", "scheme `localhost`"),
        ("http://localhost", "scheme `http`"),
        ("valkey://localhost", "scheme `valkey`"),
        ("redis://", "no host"),
        ("redis:localhost", "no host"),
        ("redis:///3", "no host"),
        ("redis://u:p@", "no host"),
        ("redis://h:port", "port"),
        ("redis://h:70000", "port"),
        ("redis://[::1", "IPv6"),
        ("redis://a b", "host is invalid"),
        ("redis://h#insecure", "fragment"),
        ("redis://h/x", "database"),
        ("redis://h/-1", "database"),
        ("redis://h/1/2", "database"),
        ("redis://h/99999999999", "database"),
        ("redis://h?protocol=resp2", "only resp3"),
        ("redis://h?protocol=2", "only resp3"),
        ("redis://h?protocol=4", "no protocol"),
        ("redis://h?max_pending=many", "option max_pending"),
        ("redis://h?backoff_max=fast", "option backoff_max"),
        ("redis://h?client_name=", "option client_name"),
        ("redis://h?client_name=a%20b", "option client_name"),
        ("redis://h?ca_cert=/ca.pem", "only rediss://"),
        ("redis://h?prefix=%FF", "not UTF-8"),
    ] {
        let error = refused(url).to_string();
        assert!(error.contains(text), "{url}: {error}");
    }
}

#[test]
fn tls_is_a_feature() {
    let url = "rediss://h:1";
    if cfg!(feature = "tls") {
        assert_eq!(parse(url).0.address.to_string(), url);
    } else {
        let error = refused(url).to_string();
        assert!(error.contains("feature `tls`"), "{error}");
    }
}

#[test]
fn no_error_and_no_debug_output_shows_a_password() {
    for url in [
        "redis://alice:s3cr3t@",
        "redis://alice:s3cr3t@h:port",
        "redis://alice:12#s3cr3t@h",
        "redis://alice:12?s3cr3t@h",
        "redis://alice:12?s3cr3t@h=1",
        "redis://alice:12?s3cr3t&x@h",
        "redis://alice:12?s3cr3t&s3cr3t&x@h",
        #[cfg(unix)]
        "unix:///s?pass=12&s3cr3t",
        "redis://alice:12/s3cr3t@h",
        "redis://alice:/s3cr3t@h",
        "redis://s3cr3t@h",
        "s3cr3t",
        "redis://h?connect_timeout=s3cr3t",
        "redis://h/s3cr3t",
    ] {
        let error = refused(url);
        assert!(
            !format!("{error} {error:?}").contains("s3cr3t"),
            "{error:?}"
        );
    }
    let (config, settings) = parse("redis://alice:s3cr3t@h/1?prefix=a");
    let shown = format!("{config:?} {settings:?} {}", config.address);
    assert!(
        shown.contains("alice") && !shown.contains("s3cr3t"),
        "{shown}"
    );
    let (config, _) = parse("redis://s3cr3t@h");
    assert!(!format!("{config:?}").contains("s3cr3t"));
}
