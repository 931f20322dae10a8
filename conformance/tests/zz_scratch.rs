#![cfg(feature = "memory")]
use backplane_conformance::{MemoryHarness, Suite, rules};
use std::sync::Arc;
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn scratch() {
    let ids: Vec<String> = std::env::var("IDS")
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let r = Suite::new(Arc::new(MemoryHarness::new()))
        .rules(rules::select(&ids).unwrap())
        .run()
        .await;
    println!("{}", r.to_text());
}
