//! How Redis is broken on purpose.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::RedisHarness;
use crate::fixtures::{ClientInfo, ClientKind, FixtureError, Mode, Server, ServerFault, Trap};
use crate::harness::{Cuts, Fault, Faults};

/// The least and the most that [`Fault::Delay`] delays each way: noticeable, and far from every time-out.
const SLOW: (Duration, Duration) = (Duration::from_millis(8), Duration::from_millis(30));

#[async_trait]
impl Faults for RedisHarness {
    fn supports(&self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::Kill => self.server()?.supports(ServerFault::Kill),
            Fault::Stop => self.server()?.supports(ServerFault::Stop),
            Fault::Freeze => self.server()?.supports(ServerFault::Freeze),
            Fault::KillSubscribers | Fault::KillPublishers if self.fixture == "url" => {
                Err("the server behind --url has other clients, too".to_owned())
            }
            Fault::KillSubscribers | Fault::KillPublishers => Ok(()),
            // All that happens on the way there.
            Fault::Mute
            | Fault::Isolate(_)
            | Fault::RefuseNew
            | Fault::Unanswered
            | Fault::Delay
            | Fault::Trickle
            | Fault::CutInSubscribe(_)
            | Fault::CutInPublish(_) => Ok(()),
            Fault::Overrun(_) | Fault::OutOfMemory | Fault::MaxClients | Fault::RevokeAuth => {
                self.may_change_server()
            }
        }
    }

    async fn inject(&self, fault: Fault) -> Result<(), String> {
        self.supports(fault)?;
        match fault {
            Fault::Kill => self.break_server(ServerFault::Kill).await,
            Fault::Stop => self.break_server(ServerFault::Stop).await,
            Fault::Freeze => self.break_server(ServerFault::Freeze).await,
            Fault::Mute => self.paths.switch(Mode::Mute).await,
            Fault::Isolate(node) => self.paths.isolate(node).await,
            Fault::RefuseNew => self.paths.switch(Mode::RefuseNew).await,
            Fault::Unanswered => self.paths.switch(Mode::Unanswered).await,
            Fault::Delay => {
                let (least, most) = SLOW;
                self.paths.switch(Mode::Jitter { least, most }).await
            }
            Fault::Trickle => self.paths.switch(Mode::Trickle).await,
            Fault::CutInSubscribe(node) => self.paths.arm(node, Trap::RedisSubscribe),
            Fault::CutInPublish(node) => self.paths.arm(node, Trap::RedisPublish),
            Fault::KillSubscribers => self.kill(ClientKind::Pubsub).await,
            Fault::KillPublishers => self.kill(ClientKind::Normal).await,
            Fault::Overrun(node) => self.overrun(node).await,
            Fault::OutOfMemory => self.run_out_of_memory().await,
            Fault::MaxClients => self.fill().await,
            Fault::RevokeAuth => self.revoke().await,
        }
    }

    async fn heal(&self) -> Result<(), String> {
        let changed_back = self.change_back().await;
        let mended = self.paths.mend().await.map_err(|error| error.to_string());
        // The server comes back even if a path does not.
        self.with_server(|server| async move { server.heal().await })
            .await
            .and(changed_back)
            .and(mended)?;
        self.paths.prove_mended().await
    }

    fn cuts(&self) -> Cuts {
        self.paths.cuts()
    }
}

impl RedisHarness {
    pub(super) async fn break_server(&self, fault: ServerFault) -> Result<(), String> {
        self.with_server(move |server| async move { server.inject(fault).await })
            .await
    }

    async fn with_server<F>(
        &self,
        work: impl FnOnce(Arc<dyn Server>) -> F + Send,
    ) -> Result<(), String>
    where
        F: Future<Output = Result<(), FixtureError>> + Send + 'static,
    {
        let done = self.backstage.run(work(self.server()?)).await;
        done.map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }

    /// Breaks the nodes' connections of one kind, and returns when the server has them no more.
    async fn kill(&self, kind: ClientKind) -> Result<(), String> {
        let ours = |clients: Vec<ClientInfo>| -> HashSet<u64> {
            let is_ours = |client: &ClientInfo| self.is_of_a_node(client) && client.kind() == kind;
            clients
                .into_iter()
                .filter(is_ours)
                .map(|client| client.id)
                .collect()
        };
        let before = ours(self.clients().await?);
        if before.is_empty() {
            return Err("no connection was there to be killed".to_owned());
        }
        self.ask(move |observer| async move { observer.kill_clients(kind).await })
            .await?;
        let after = ours(self.clients().await?);
        match before.intersection(&after).count() {
            0 => Ok(()),
            left => Err(format!(
                "{left} of {} connections were not killed",
                before.len()
            )),
        }
    }
}
