//! Two nodes and a publisher, an outage, a gap, and the recovery, as they look to an application.
//!
//! ```text
//! cargo run --example two_nodes -- memory
//! cargo run --example two_nodes -- redis://localhost
//! ```
//!
//! A Redis server is left alone: each node reaches it through a relay in this process, and the outage
//! is the relay's.

use std::error::Error;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backplane_core::{
    Backplane, Channel, ConnectionState, Delivery, Event, NodeId, NodeOptions, Prefix, Subscribe,
};
use backplane_memory::MemoryBus;
use backplane_redis::RedisBuilder;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let Some(backend) = std::env::args().nth(1) else {
        return Err("say which backend: `memory`, or a URL such as `redis://localhost`".into());
    };
    let mut stage = Stage::open(&backend).await?;
    let clock = Clock(Instant::now());
    let news = Channel::new("news")?;

    let publisher = stage.node().await?;
    let north = stage.node().await?;
    let south = stage.node().await?;
    let mut watching = JoinSet::new();
    for (name, node) in [("north", &north), ("south", &south)] {
        let subscription = node.subscribe(Subscribe::to([news.clone()])).await?;
        watching.spawn(read(clock, name, subscription, publisher.node_id()));
        watching.spawn(follow(clock, name, node.events()));
    }
    let mut number = 0;
    let mut publish = async |count: usize| {
        for _ in 0..count {
            number += 1;
            let text = format!("message {number}");
            clock.say("publisher", format_args!("publishes {text}"));
            match publisher.publish(&news, text.clone().into()).await {
                Ok(()) => {}
                Err(error) if error.is_not_sent() => {
                    clock.say("publisher", format_args!("{text} was NOT SENT: {error}"));
                }
                Err(error) => clock.say("publisher", format_args!("{text}, fate UNKNOWN: {error}")),
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    };

    publish(3).await;
    clock.scene("the broker goes away");
    let all = [&publisher, &north, &south];
    stage.cut(&all);
    for node in all {
        node.watch().wait_for(|state| !state.is_connected()).await;
    }
    publish(3).await;
    clock.scene("the broker is back");
    stage.mend(&all);
    for node in all {
        node.watch().connected().await;
    }
    publish(3).await;
    clock.scene("only south is cut off");
    stage.cut(&[&south]);
    south.watch().wait_for(|state| !state.is_connected()).await;
    publish(4).await;
    clock.scene("south is back");
    stage.mend(&[&south]);
    south.watch().connected().await;
    publish(2).await;

    clock.scene("everybody closes");
    for node in all {
        node.close().await;
    }
    while watching.join_next().await.is_some() {}
    Ok(())
}

/// What an application does with a subscription.
async fn read(
    clock: Clock,
    name: &str,
    mut subscription: backplane_core::Subscription,
    publisher: NodeId,
) {
    // The count of an outage is known once the publisher is heard again.
    let mut uncounted = None;
    while let Some(delivery) = subscription.recv().await {
        match delivery {
            Delivery::Message(message) => {
                let text = String::from_utf8_lossy(message.payload());
                clock.say(name, format_args!("got {text}"));
            }
            Delivery::Gap(gap) => {
                clock.say(
                    name,
                    format_args!("has a GAP here: {gap}; time to read the state again"),
                );
                uncounted = Some(gap);
            }
        }
        if let Some(missed) = uncounted
            .as_ref()
            .and_then(|gap| gap.missed_from(publisher))
        {
            clock.say(
                name,
                format_args!("knows now: the gap hides {missed} of the publisher"),
            );
            uncounted = None;
        }
    }
    clock.say(name, "its stream has ended");
}

async fn follow(clock: Clock, name: &str, mut events: backplane_core::Events) {
    let mut away = false;
    while let Some(event) = events.recv().await {
        let Event::State(state) = event else {
            continue;
        };
        // Once is enough: every failed try to come back is told too.
        let told = std::mem::replace(&mut away, !state.is_connected());
        if !told || state.is_connected() || state == ConnectionState::Closed {
            clock.say(name, format_args!("is {state}"));
        }
    }
}

#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn say(self, who: &str, what: impl Display) {
        println!("{:6.2} s  {who:<9}  {what}", self.0.elapsed().as_secs_f64());
    }

    fn scene(self, what: &str) {
        println!("\n{:6.2} s  --- {what} ---", self.0.elapsed().as_secs_f64());
    }
}

/// Makes nodes, and takes the broker away from them.
enum Stage {
    Memory(MemoryBus),
    Redis {
        url: Url,
        relays: Vec<(NodeId, Relay)>,
    },
}

impl Stage {
    async fn open(backend: &str) -> Result<Self> {
        if backend == "memory" {
            return Ok(Self::Memory(MemoryBus::new()));
        }
        let url = Url::parse(backend).map_err(|_| "the URL is malformed")?;
        if url.scheme() != "redis" {
            return Err("the outage can be shown for `memory` and redis:// only".into());
        }
        Ok(Self::Redis {
            url,
            relays: Vec::new(),
        })
    }

    async fn node(&mut self) -> Result<Arc<dyn Backplane>> {
        let prefix = Prefix::new("two-nodes")?;
        match self {
            Self::Memory(bus) => Ok(Arc::new(bus.connect(NodeOptions::new(prefix)).await?)),
            Self::Redis { url, relays } => {
                let host = url
                    .host_str()
                    .unwrap_or("localhost")
                    .trim_matches(['[', ']'])
                    .to_owned();
                let relay = Relay::start(host, url.port().unwrap_or(6379)).await?;
                let mut through = url.clone();
                through.set_host(Some("127.0.0.1"))?;
                through
                    .set_port(Some(relay.address.port()))
                    .map_err(|()| "the URL takes no port")?;
                let node = RedisBuilder::new(through.as_str())
                    .prefix(prefix)
                    .connect()
                    .await?;
                relays.push((node.node_id(), relay));
                Ok(Arc::new(node))
            }
        }
    }

    fn cut(&self, nodes: &[&Arc<dyn Backplane>]) {
        self.switch(nodes, false);
    }

    fn mend(&self, nodes: &[&Arc<dyn Backplane>]) {
        self.switch(nodes, true);
    }

    fn switch(&self, nodes: &[&Arc<dyn Backplane>], open: bool) {
        for node in nodes {
            let id = node.node_id();
            match self {
                Self::Memory(bus) if open => bus.admit(id),
                Self::Memory(bus) => drop(bus.refuse(id)),
                Self::Redis { relays, .. } => {
                    relays
                        .iter()
                        .filter(|(of, _)| *of == id)
                        .for_each(|(_, relay)| {
                            relay.open.send_replace(open);
                        })
                }
            }
        }
    }
}

/// A way to the server that can be closed.
struct Relay {
    address: SocketAddr,
    open: watch::Sender<bool>,
    _accepting: JoinSet<()>,
}

impl Relay {
    async fn start(host: String, port: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let open = watch::Sender::new(true);
        let way = open.subscribe();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (mut way, host) = (way.clone(), host.clone());
                passing.spawn(async move {
                    tokio::select! {
                        _ = way.wait_for(|open| !open) => {}
                        _ = pass(client, &host, port) => {}
                    }
                });
            }
        });
        Ok(Self {
            address,
            open,
            _accepting: accepting,
        })
    }
}

async fn pass(mut client: TcpStream, host: &str, port: u16) -> std::io::Result<()> {
    let mut server = TcpStream::connect((host, port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
