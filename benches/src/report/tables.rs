//! What a comparison says, as tables.

use super::table::{Table, cell, number, whole};
use crate::compare::{CLOSED_LOOP, Comparison, FIXED_RATE, QUANTILES};
use crate::contender::{BROADCAST, Floor, Form, MEMORY, REDIS};
use crate::keys::{BARE_LOOP, KEYS, RAW_LATENCY, RAW_THROUGHPUT, Target};

/// All tables, the most important first.
#[must_use]
pub fn tables(comparison: &Comparison) -> Vec<Table> {
    let mut tables = vec![headline(comparison)];
    tables.extend([CLOSED_LOOP, FIXED_RATE].map(|measurement| latency(comparison, measurement)));
    tables.extend([
        throughput(comparison),
        cpu(comparison),
        allocations(comparison),
        in_process(comparison),
        fan_out(comparison),
        channels(comparison),
    ]);
    tables
}

fn headline(comparison: &Comparison) -> Table {
    let rows = KEYS.map(|key| {
        let value = key.of(comparison);
        let (target, met) = match key.target {
            Target::AtMost(most) => (format!("<= {}", number(most)), true),
            Target::AtLeast(least) => (format!(">= {}", number(least)), true),
            Target::None => (String::new(), false),
        };
        let verdict = match value {
            Some(value) if met && key.target.is_met_by(value) => "met",
            Some(_) if met => "missed",
            _ => "",
        };
        vec![
            key.meaning.to_owned(),
            cell(value),
            target,
            verdict.to_owned(),
        ]
    });
    Table {
        title: "Ratios and targets".to_owned(),
        note: format!(
            "Ratios are medians over {} rounds of the ratio within the round. \
             Latency is held against \"{RAW_LATENCY}\", which like ours wakes a task that reads; \
             throughput and CPU against \"{RAW_THROUGHPUT}\", which counts in the closure and wakes nobody.",
            comparison.plan.rounds
        ),
        columns: strings(["figure", "value", "target", ""]),
        rows: rows.to_vec(),
    }
}

fn latency(comparison: &Comparison, measurement: &str) -> Table {
    let figure = |suffix: &str| format!("{measurement}_{suffix}_us");
    let row = |who: &&str| {
        let mut row = vec![(*who).to_owned()];
        for (suffix, _) in QUANTILES {
            row.push(cell(comparison.figures.median(&figure(suffix), who)));
        }
        for suffix in ["p50", "p99"] {
            let figure = figure(suffix);
            let ratio = comparison
                .figures
                .ratio((&figure, who), (&figure, RAW_LATENCY));
            row.push(cell(ratio));
        }
        row
    };
    let who = [
        Floor::NAME,
        Form::Stream.name(),
        Form::ClosureToTask.name(),
        Form::Closure.name(),
        REDIS,
        BROADCAST,
        MEMORY,
    ];
    let payload = comparison.plan.payload;
    let (title, note) = if measurement == CLOSED_LOOP {
        (
            format!(
                "Latency in us, publish to delivered, one message of {payload} bytes at a time"
            ),
            "The subscriber is a parked task, except for blocking sockets, which one thread uses, \
             and \"raw push\", which stops at the closure."
                .to_owned(),
        )
    } else {
        (
            format!(
                "Latency in us at {} messages/s, from the intended time of sending",
                comparison.plan.rate
            ),
            "Corrected for coordinated omission: a send that is late because of the one before counts from when it \
             should have been. The publisher is a thread of its own."
                .to_owned(),
        )
    };
    Table {
        title,
        note,
        columns: strings(["", "p50", "p90", "p99", "p99.9", "p50 / raw", "p99 / raw"]),
        rows: who.iter().map(row).collect(),
    }
}

/// The forms whose throughput is measured on Redis.
const ON_REDIS: [&str; 3] = [Form::Stream.name(), Form::Closure.name(), REDIS];

/// The columns of throughput and CPU: numbers of awaiting publishers, and publish-many.
fn loads(comparison: &Comparison) -> Vec<(String, String)> {
    let publishers = comparison.plan.publishers.iter();
    publishers
        .map(|n| (n.to_string(), n.to_string()))
        .chain([("many".to_owned(), "publish-many".to_owned())])
        .collect()
}

fn by_load(
    comparison: &Comparison,
    title: String,
    note: &str,
    value: impl Fn(&str, &str) -> String,
) -> Table {
    let loads = loads(comparison);
    let row = |who: &&str| {
        let values = loads.iter().map(|(load, _)| value(load, who));
        std::iter::once((*who).to_owned()).chain(values).collect()
    };
    Table {
        title,
        note: note.to_owned(),
        columns: std::iter::once("publishers".to_owned())
            .chain(loads.iter().map(|(_, name)| name.clone()))
            .collect(),
        rows: ON_REDIS.iter().map(row).collect(),
    }
}

fn throughput(comparison: &Comparison) -> Table {
    let title = format!(
        "Throughput in messages/s delivered, {} bytes, by number of awaiting publishers",
        comparison.plan.payload
    );
    let note = "Counted at the receiver, to the last message; a lost one would void the run. \
                With the raw crate, publish-many is pipelines of 512 commands.";
    by_load(comparison, title, note, |load, who| {
        cell(
            comparison
                .figures
                .median(&format!("throughput_{load}"), who),
        )
    })
}

fn cpu(comparison: &Comparison) -> Table {
    let title =
        "CPU seconds for a million messages, publisher and receiver together, and + those of Redis";
    let note = "Equally, microseconds for one message.";
    by_load(comparison, title.to_owned(), note, |load, who| {
        let median = |figure: &str| comparison.figures.median(&format!("{figure}_{load}"), who);
        match (median("cpu_us"), median("redis_cpu_us")) {
            (Some(ours), Some(redis)) => format!("{} + {}", number(ours), number(redis)),
            (ours, _) => cell(ours),
        }
    })
}

fn allocations(comparison: &Comparison) -> Table {
    let title = "Allocations for a message, publisher and receiver together";
    let note = "Counted in a program of its own, on one thread.";
    by_load(comparison, title.to_owned(), note, |load, who| {
        let counted = comparison.counted.per_message.get(load);
        cell(counted.and_then(|figure| figure.get(who)).copied())
    })
}

fn in_process(comparison: &Comparison) -> Table {
    let figures = &comparison.figures;
    let row = |who: &&str| {
        let counted = comparison.counted.per_message.get("in_process");
        vec![
            (*who).to_owned(),
            cell(figures.median("throughput_in_process", who)),
            cell(figures.median("throughput_many", who)),
            cell(figures.median("cpu_us_in_process", who)),
            cell(counted.and_then(|figure| figure.get(*who)).copied()),
        ]
    };
    Table {
        title: "In one process, one publisher and one subscriber".to_owned(),
        note: "The publisher waits while 1024 messages are unread, so that nothing is overwritten."
            .to_owned(),
        columns: strings([
            "",
            "messages/s",
            "with publish-many",
            "CPU s / million",
            "allocations / message",
        ]),
        rows: [BROADCAST, MEMORY].iter().map(row).collect(),
    }
}

fn fan_out(comparison: &Comparison) -> Table {
    let figures = &comparison.figures;
    let row = |who: &&str| {
        vec![
            (*who).to_owned(),
            cell(figures.median("fanout_ns", who)),
            cell(figures.median("fanout_burst_ns", who)),
        ]
    };
    Table {
        title: format!(
            "Fan-out in ns a delivery, to {} parked tasks of one process",
            whole(comparison.plan.audience)
        ),
        note: "From the publish until the last task has the message. \
               The bare loop sends into bounded tokio channels with try_send."
            .to_owned(),
        columns: strings(["", "one message", "burst of 32"]),
        rows: [BARE_LOOP, MEMORY].iter().map(row).collect(),
    }
}

fn channels(comparison: &Comparison) -> Table {
    let figures = &comparison.figures;
    let each = |who: &str| comparison.counted.per_subscription.get(who).copied();
    let row = |who: &str| {
        vec![
            who.to_owned(),
            cell(figures.median("subscribe_s", who)),
            cell(figures.median("subscribe_each_s", who)),
            cell(figures.median("resubscribe_s", who)),
            cell(each(who)),
        ]
    };
    Table {
        title: format!("{} channels", whole(comparison.plan.channels)),
        note: "Seconds to subscribe to all in one call, to each in a call of its own with 1024 under way, and from a kill \
               of all connections until all are in force again; bytes on the heap for an idle subscription \
               with a channel of its own, its handle and name included."
            .to_owned(),
        columns: strings(["", "one call", "each its own", "after a kill", "bytes each"]),
        rows: vec![row("raw"), row(REDIS), row(MEMORY)],
    }
}

fn strings<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).to_vec()
}
