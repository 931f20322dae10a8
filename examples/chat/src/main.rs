//! The program: its arguments, and its end.

use std::error::Error;
use std::io;
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
    let asked_to_end = asked_to_end()?;
    println!("open http://{}", server.address());
    asked_to_end.await?;
    println!("shutting down");
    server.shut_down().await;
    Ok(())
}

/// From now on, and until somebody at the terminal or the service manager wants the program to end.
#[cfg(unix)]
fn asked_to_end() -> io::Result<impl Future<Output = io::Result<()>>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        }
    })
}

/// Until somebody at the terminal wants the program to end.
#[cfg(not(unix))]
fn asked_to_end() -> io::Result<impl Future<Output = io::Result<()>>> {
    Ok(tokio::signal::ctrl_c())
}
