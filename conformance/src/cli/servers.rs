//! Which server the Redis backend is run on.

use std::sync::Arc;

use super::commands::{Fixture, ServerArgs};
use super::complain;
use crate::fixtures::FixtureError;
use crate::harness::Harness;
use crate::redis::RedisHarness;

/// Starts the server that the arguments ask for, or the best there is.
///
/// # Errors
/// What is wrong, and what to install.
pub(super) async fn start(args: &ServerArgs) -> Result<Arc<dyn Harness>, String> {
    let harness = match (args.fixture, &args.url) {
        (Some(Fixture::Url) | None, Some(url)) => RedisHarness::url(url).await,
        (Some(Fixture::Url), None) => {
            return Err("--fixture url needs --url redis://host:port".to_owned());
        }
        (Some(other), Some(_)) => {
            return Err(format!(
                "--url is for --fixture url, not for {}",
                other.as_str()
            ));
        }
        (Some(Fixture::Process), None) => RedisHarness::process().await,
        (Some(Fixture::Proxy), None) => RedisHarness::proxy().await,
        (Some(Fixture::Container), None) => return container().await.map(shared),
        (None, None) => return container_or_process().await.map(shared),
    };
    harness.map(shared).map_err(|error| error.to_string())
}

fn shared(harness: RedisHarness) -> Arc<dyn Harness> {
    Arc::new(harness)
}

#[cfg(feature = "container")]
async fn container() -> Result<RedisHarness, String> {
    RedisHarness::container()
        .await
        .map_err(|error| error.to_string())
}

#[cfg(not(feature = "container"))]
async fn container() -> Result<RedisHarness, String> {
    Err("this command was built without the feature `container`".to_owned())
}

async fn container_or_process() -> Result<RedisHarness, String> {
    let why = match container().await {
        Ok(harness) => return Ok(harness),
        Err(why) => why,
    };
    match RedisHarness::process().await {
        Ok(harness) => {
            complain(format_args!(
                "no container, so redis-server as a process: {why}"
            ));
            Ok(harness)
        }
        Err(error @ FixtureError::BinaryMissing { .. }) => Err(format!(
            "there is no Redis to run on\n  container: {why}\n  process: {error}\n  \
             or name a running server with --url redis://host:port"
        )),
        Err(error) => Err(format!(
            "no Redis could be started\n  container: {why}\n  process: {error}"
        )),
    }
}
