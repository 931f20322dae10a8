//! The program: its arguments, and its end.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use backplane_core::{Backplane, NodeOptions, Prefix};
use backplane_example_chat::Server;
use backplane_memory::MemoryBus;
use backplane_redis::RedisBuilder;
use clap::{Args, Parser};
use tokio::net::TcpListener;

/// A server of the chat. Servers with the same Redis are one chat.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where clients connect; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:3001")]
    listen: SocketAddr,
    #[command(flatten)]
    backend: Backend,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Backend {
    /// The Redis that the servers share, such as redis://127.0.0.1:6379.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// No Redis: this server is alone.
    #[arg(long)]
    memory: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let listener = TcpListener::bind(arguments.listen).await?;
    let prefix = Prefix::new("backplane-example-chat")?;
    let node: Arc<dyn Backplane> = match arguments.backend.redis {
        // Lazy: the server starts in an outage too, and attaches when Redis is there.
        Some(url) => Arc::new(RedisBuilder::new(url).prefix(prefix).connect_lazy()?),
        None => Arc::new(MemoryBus::new().connect(NodeOptions::new(prefix)).await?),
    };
    let server = Server::start(listener, node).await?;
    println!("open http://{}", server.address());
    tokio::signal::ctrl_c().await?;
    println!("shutting down");
    server.shut_down().await;
    Ok(())
}
