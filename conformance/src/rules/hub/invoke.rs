//! Asking a client, and waiting for its answer (rule H19).

use std::time::Duration;

use backplane_core::hub::{CompleteError, InvokeError, Payload, RequestError};
use futures_util::future::{join, join_all};
use futures_util::poll;
use tokio::time::Instant;

use super::cast::{BOTH, Client, HEARTBEAT, Hub, NODE_TIMEOUT};
use crate::hub::{ClientSpec, HubSpec, Recipients};
use crate::rule::{Rule, rule};
use crate::trial::{Node, Trial, ensure, show};
use crate::verdict::{Outcome, broken};

pub(super) const RULES: &[Rule] = &[rule!(
    "H19",
    "a client is asked from any node, and each way that ends is told, at once and by name",
    [],
    h19
)];

/// Longer than anything takes that is not to run out.
const LONG: Duration = Duration::from_secs(60);

const SHORT: Duration = Duration::from_millis(200);

type Answer = Result<Payload, InvokeError>;

async fn h19(trial: Trial) -> Outcome {
    for mode in BOTH {
        let nodes: [Node; 3] = trial.nodes().await?;
        let spec = HubSpec::new(format!("{mode:?}"))
            .delivery(mode)
            .heartbeats(HEARTBEAT, NODE_TIMEOUT);
        let hubs = Hub::on(&trial, &nodes, &spec).await?;
        for hub in &hubs {
            hub.knows(3).await?;
        }
        let mut client = hubs[0].connect("the client", &ClientSpec::new()).await?;
        for hub in &hubs[..2] {
            answers(hub, &mut client).await?;
            does_not_answer(hub, &mut client).await?;
            nobody_waits(hub, &mut client).await?;
        }
        do_not_collide(&hubs, &mut client).await?;
        answers_for_another(&hubs, &mut client).await?;
        disconnects(&hubs).await?;
        its_node_goes(&hubs, &nodes).await?;
        for hub in &hubs[..2] {
            hub.nothing_is_left().await?;
        }
    }
    Ok(())
}

/// Asks, while the client does its part.
async fn ask<T>(
    hub: &Hub,
    of: backplane_core::hub::ConnectionId,
    patience: Duration,
    client: impl Future<Output = Outcome<T>>,
) -> Outcome<(Answer, T)> {
    let asking = hub.port.invoke(of, Payload::from("?"), patience);
    let (answer, done) = join(hub.in_time("invoke", asking), client).await;
    Ok((answer?, done?))
}

/// Values and errors, in order with messages.
async fn answers(hub: &Hub, client: &mut Client) -> Outcome {
    let id = client.id();
    hub.send(&Recipients::connection(id), "before").await?;
    let (answer, ()) = ask(hub, id, LONG, async {
        client.expect("before").await?;
        let call = client.called().await?;
        let asked = call.payload.bytes().map(|bytes| show(&bytes));
        ensure(
            asked == Some(show(b"?")),
            format!("asked \"?\", and the client was asked {asked:?}"),
        )?;
        client.answer(&call, Ok("a value"))?;
        let again = client.handle.complete(call.id, Ok(Payload::from("again")));
        ensure(
            again == Err(CompleteError::Unknown(call.id)),
            format!("a second answer to one call is told as {again:?}"),
        )
    })
    .await?;
    is_value(answer, "a value")?;
    let (answer, ()) = ask(hub, id, LONG, async {
        let call = client.called().await?;
        client.answer(&call, Err("no idea"))
    })
    .await?;
    match answer {
        Err(InvokeError::Client(words)) if words == "no idea" => Ok(()),
        other => broken(format!("the client's error is told as {other:?}")),
    }
}

fn is_value(answer: Answer, expected: &str) -> Outcome {
    let told = answer.as_ref().map(|payload| payload.bytes());
    ensure(
        matches!(&told, Ok(Some(bytes)) if bytes == expected.as_bytes()),
        format!("the client answered {expected:?}, and that is told as {answer:?}"),
    )
}

async fn does_not_answer(hub: &Hub, client: &mut Client) -> Outcome {
    let id = client.id();
    let begin = Instant::now();
    let (answer, call) = ask(hub, id, SHORT, client.called()).await?;
    let took = begin.elapsed();
    match answer {
        Err(InvokeError::Timeout { connection, .. }) if connection == id => {}
        other => {
            return broken(format!(
                "a client that does not answer is told as {other:?}"
            ));
        }
    }
    ensure(
        took >= SHORT.mul_f64(0.9),
        format!("waited {took:?} for an answer, and not {SHORT:?}"),
    )?;
    client.expect_cancelled(call.id).await?;
    let late = client.handle.complete(call.id, Ok(Payload::from("late")));
    ensure(
        late == Err(CompleteError::Unknown(call.id)),
        format!("an answer that comes too late is told as {late:?}"),
    )
}

/// The one who asks goes away.
async fn nobody_waits(hub: &Hub, client: &mut Client) -> Outcome {
    let mut asking = hub.port.invoke(client.id(), Payload::from("?"), LONG);
    if poll!(&mut asking).is_ready() {
        return broken("a call ended before the client was asked");
    }
    let call = client.called().await?;
    drop(asking);
    client.expect_cancelled(call.id).await?;
    hub.nothing_is_left().await
}

async fn do_not_collide(hubs: &[Hub], client: &mut Client) -> Outcome {
    let id = client.id();
    let count = 30;
    let asking = (0..count).map(|n| {
        let hub = &hubs[n % hubs.len()];
        let asking = hub.port.invoke(id, Payload::from(n.to_string()), LONG);
        async move { (n, hub.in_time("invoke", asking).await) }
    });
    let answering = async {
        let mut calls = Vec::new();
        while calls.len() < count {
            calls.push(client.called().await?);
        }
        for call in calls.iter().rev() {
            let asked = call.payload.bytes().unwrap_or_default();
            let asked = String::from_utf8_lossy(&asked);
            client.answer(call, Ok(&asked))?;
        }
        Ok(())
    };
    let (answers, answered) = join(join_all(asking), answering).await;
    answered?;
    for (n, answer) in answers {
        is_value(answer?, &n.to_string())?;
    }
    Ok(())
}

async fn answers_for_another(hubs: &[Hub], client: &mut Client) -> Outcome {
    let other = hubs[0]
        .connect("another client", &ClientSpec::new())
        .await?;
    let id = client.id();
    let (answer, ()) = ask(&hubs[1], id, LONG, async {
        let call = client.called().await?;
        let wrong = other
            .handle
            .complete(call.id, Ok(Payload::from("not mine")));
        ensure(
            wrong == Err(CompleteError::WrongConnection(call.id)),
            format!("an answer of another connection is told as {wrong:?}"),
        )?;
        client.answer(&call, Ok("mine"))
    })
    .await?;
    is_value(answer, "mine")
}

async fn disconnects(hubs: &[Hub]) -> Outcome {
    for hub in &hubs[..2] {
        let mut client = hubs[0].connect("who goes", &ClientSpec::new()).await?;
        let id = client.id();
        let (answer, ()) = ask(hub, id, LONG, async {
            client.called().await?;
            drop(client);
            Ok(())
        })
        .await?;
        match answer {
            Err(InvokeError::Disconnected(gone)) if gone == id => {}
            other => return broken(format!("a client that disconnects is told as {other:?}")),
        }
        let (answer, ()) = ask(hub, id, LONG, async { Ok(()) }).await?;
        match answer {
            Err(InvokeError::Request(RequestError::UnknownConnection(gone))) if gone == id => {}
            other => return broken(format!("a client that is gone is told as {other:?}")),
        }
    }
    Ok(())
}

/// The node of the client crashes: it is not heard any more, and says no bye.
async fn its_node_goes(hubs: &[Hub], nodes: &[Node]) -> Outcome {
    let mut client = hubs[2]
        .connect("whose node goes", &ClientSpec::new())
        .await?;
    let begin = Instant::now();
    let (answer, ()) = ask(&hubs[1], client.id(), LONG, async {
        client.called().await?;
        nodes[2].close().await;
        Ok(())
    })
    .await?;
    let (gone, took) = (nodes[2].node_id(), begin.elapsed());
    match answer {
        Err(InvokeError::Request(RequestError::NodeGone(node))) if node == gone => Ok(()),
        other => broken(format!(
            "a client whose node goes is told after {took:?} as {other:?}"
        )),
    }
}
