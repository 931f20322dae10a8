//! A node of a hub, fed by a stranger on its channels: it does not panic, counts whatever is no packet, keeps within the bounds of its
//! queues, and still does its work.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use backplane_core::hub::{Connect, Connection, Hub, Outbound, Target};
use backplane_core::{Backplane, Channel, NodeOptions, Prefix};
use backplane_memory::MemoryBus;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const CAPACITY: usize = 8;

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime can be made");
    runtime.block_on(serve(data));
});

async fn serve(data: &[u8]) {
    let bus = MemoryBus::new();
    let options = || NodeOptions::new(Prefix::new("fuzz").expect("a right name"));
    let node = async || Arc::new(bus.connect(options()).await.expect("it attaches"));
    let (stranger, near, far) = (node().await, node().await, node().await);
    let id = near.node_id();
    let hub = |node| async { Hub::builder(node).build().await.expect("a hub is made") };
    let (near, far) = (hub(near).await, hub(far).await);
    let request = Connect::new().user("u").queue_capacity(CAPACITY);
    let mut client = near.connect(request).await.expect("it connects");
    client.join("g").await.expect("it joins");

    let channels = ["all".to_owned(), format!("node:{id}"), "group:g".into(), "user:u".into()];
    let channels = channels.map(|name| {
        Channel::new(format!("hub:hub:{name}")).expect("a right name")
    });
    // Each packet begins with its channel and its length; a longer one than is left ends the input.
    let mut rest = data;
    while let Some((head, behind)) = rest.split_at_checked(3) {
        let len = usize::from(u16::from_le_bytes([head[1], head[2]])).min(behind.len());
        let (bytes, behind) = behind.split_at(len);
        rest = behind;
        let channel = &channels[usize::from(head[0]) % channels.len()];
        let sent = stranger.publish(channel, Bytes::copy_from_slice(bytes)).await;
        sent.expect("the memory backend takes it");
    }

    // The right one comes, behind no more than the queue holds. The stranger may have ended the connection, as any node may.
    far.send(Target::all(), "right").await.expect("it sends");
    if came_before(&mut client).await.is_some_and(|count| count > 2 * CAPACITY) {
        panic!("more came than the queue holds");
    }
    drop(client);
    drop(near.connect(Connect::new()).await.expect("the hub is alive"));
    assert_eq!(near.stats().requests, 0);
    near.close().await;
}

/// How many items come before the right message; `None` when the connection was ended.
async fn came_before(client: &mut Connection) -> Option<usize> {
    let mut count = 0;
    loop {
        let next = tokio::time::timeout(Duration::from_secs(1), client.recv());
        match next.await.expect("something comes") {
            Some(Outbound::Message(payload)) if payload == "right".into() => return Some(count),
            // It did not fit: what the queue could not take is told.
            Some(Outbound::Missed(_)) => return Some(count),
            Some(_) => count += 1,
            None => return None,
        }
    }
}
