//! Two nodes talk: `cargo run --example two_nodes -- memory`, or a URL such as `redis://localhost` in place of
//! `memory`. The code that uses the nodes does not know which backend they have.

use std::error::Error;
use std::sync::Arc;

use backplane_core::{Backplane, Channel, Delivery, NodeOptions, Prefix, Subscribe};
use backplane_memory::MemoryBus;
use backplane_redis::RedisBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "memory".to_owned());
    let prefix = Prefix::new("two-nodes")?;
    let mut nodes: Vec<Arc<dyn Backplane>> = Vec::new();
    if backend == "memory" {
        let bus = MemoryBus::new();
        for _ in 0..2 {
            nodes.push(Arc::new(
                bus.connect(NodeOptions::new(prefix.clone())).await?,
            ));
        }
    } else {
        for _ in 0..2 {
            nodes.push(Arc::new(
                RedisBuilder::new(&backend)
                    .prefix(prefix.clone())
                    .connect()
                    .await?,
            ));
        }
    }
    talk(&*nodes[0], &*nodes[1]).await?;
    for node in nodes {
        node.close().await;
    }
    Ok(())
}

async fn talk(alice: &dyn Backplane, bob: &dyn Backplane) -> Result<(), Box<dyn Error>> {
    let news = Channel::new("news")?;
    let mut subscription = bob.subscribe(Subscribe::to([news.clone()])).await?;
    for text in ["hello", "from", "the other node"] {
        alice.publish(&news, text.into()).await?;
    }
    for _ in 0..3 {
        match subscription.recv().await {
            Some(Delivery::Message(message)) => {
                println!(
                    "{}: {}",
                    message.channel(),
                    String::from_utf8_lossy(message.payload())
                );
            }
            Some(Delivery::Gap(gap)) => println!("something was missed: {gap}"),
            None => return Err("the node was closed".into()),
        }
    }
    Ok(())
}
