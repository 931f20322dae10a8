//! Opening a connection: [`NatsDriver`].

use std::fmt;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerError};
use async_trait::async_trait;
use backplane_core::Capabilities;
use backplane_core::driver::{Driver, Inbound, LinkError, LinkErrorKind};

use crate::link::NatsLink;

/// How often the client pings by itself. The engine notices a silent server long before; this only ends a connection
/// that was given up, and whose server takes no bytes.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Nobody listens there.
const NOWHERE: &str = "nats://127.0.0.1:0";

/// Opens links to a NATS server.
#[derive(Clone)]
pub struct NatsDriver {
    address: String,
    credentials: Option<(String, String)>,
}

impl NatsDriver {
    /// What NATS takes by default, 1 MiB, less what a frame of the largest batch adds.
    const MAX_PAYLOAD: usize = (1 << 20) - 4096;

    /// For the server at `host:port`.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            credentials: None,
        }
    }

    /// With a user and a password. They are not part of the address, which appears in errors and logs.
    #[must_use]
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some((user.into(), password.into()));
        self
    }

    /// One connection that never reconnects.
    async fn open(&self, inbound: &Inbound) -> Result<Client, LinkError> {
        let (told, address) = (inbound.clone(), self.address.clone());
        let mut options = ConnectOptions::new()
            .name(format!("backplane-{}", inbound.node_id()))
            .ping_interval(PING_INTERVAL)
            .ignore_discovered_servers()
            .max_reconnects(1)
            .event_callback(move |event| {
                hear(&told, &address, &event);
                std::future::ready(())
            });
        if let Some((user, password)) = &self.credentials {
            options = options.user_and_password(user.clone(), password.clone());
        }
        let client = options
            .connect(&self.address)
            .await
            .map_err(|error| self.refused(&error))?;
        // The client always tries once more after a connection that had worked, with all that was queued meanwhile
        // (`max_reconnects` counts from the last success, and 0 means "for ever"). So it is left no server to go to.
        client
            .set_server_pool(NOWHERE)
            .await
            .map_err(|error| self.lost(error))?;
        Ok(client)
    }

    fn refused(&self, error: &async_nats::ConnectError) -> LinkError {
        use ConnectErrorKind::{
            Authentication, AuthorizationViolation, ServerParse, TimedOut, Tls,
        };
        let kind = match error.kind() {
            Authentication | AuthorizationViolation => LinkErrorKind::Unauthorized,
            ServerParse | Tls => LinkErrorKind::Incompatible,
            TimedOut => LinkErrorKind::Timeout,
            _ => LinkErrorKind::Unreachable,
        };
        LinkError::new(kind, format_args!("{}: {error}", self.address))
    }

    fn lost(&self, error: impl fmt::Display) -> LinkError {
        LinkError::new(
            LinkErrorKind::Lost,
            format_args!("{}: {error}", self.address),
        )
    }
}

#[async_trait]
impl Driver for NatsDriver {
    type Link = NatsLink;

    fn endpoint(&self) -> String {
        self.address.clone()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new();
        capabilities.max_payload = Self::MAX_PAYLOAD;
        capabilities
    }

    async fn connect(&self, inbound: Inbound) -> Result<NatsLink, LinkError> {
        let client = self.open(&inbound).await?;
        // Capabilities are asked for before there is a connection, so a server that takes less is not for us.
        let limit = client.max_payload();
        if limit < 1 << 20 {
            return Err(LinkError::new(
                LinkErrorKind::Incompatible,
                format_args!("{}: max_payload is {limit}, less than 1 MiB", self.address),
            ));
        }
        NatsLink::new(client, self.address.clone(), inbound)
            .await
            .map_err(|error| self.lost(error))
    }
}

/// Takes what the client tells besides messages.
fn hear(inbound: &Inbound, address: &str, event: &Event) {
    let kind = match event {
        Event::Connected | Event::Draining | Event::LameDuckMode => return,
        Event::ServerError(ServerError::AuthorizationViolation) => LinkErrorKind::Unauthorized,
        // Among them SlowConsumer: the client has dropped a message, so a gap is due.
        _ => LinkErrorKind::Lost,
    };
    inbound.lost(LinkError::new(kind, format_args!("{address}: {event}")));
}

impl fmt::Debug for NatsDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the credentials (rule V3).
        f.debug_struct("NatsDriver")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
