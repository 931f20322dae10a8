//! The page of numbers, `NUMBERS.md`, with its plots.

use crate::compare::Comparison;
use crate::growth::{self, Growth};
use crate::{plot, report};

/// What the page says before the numbers.
const INTRODUCTION: &str = "\
# Numbers

How fast the backplane crates are, beside what they are built on. Made by

```console
cargo run --release -p backplane-benches -- page --readme README.md
```

which starts its own `redis-server`, takes some ten minutes, and overwrites this page and the table in the README. Close everything else first.
One part, in the terminal: `compare` or `growth` in place of `page`, each with `--quick`, `--format json` and `--plot
FILE.svg`. `cargo bench -p backplane-benches` runs criterion benches of single parts.

";

/// What stands in the way of the figures that are missed. By hand: a profile does not read itself.
const LIMITS: &str = "\
## What stands in the way

Some targets are hard to reach, or met on one machine and missed on another. This is what profiles say about them (perf, callgrind
and strace on two cores, version 0.1.0, November 2026); it is written by hand, and its figures are not of the run above.

**One message at a time, against blocking sockets.** Of the time of a message 73 % is the kernel's with our backend and 80 %
with the raw crate, whose own p50 is the same as ours: switching between tasks and waking them 29 % of all samples, starting
another core 18 %, the network 15 %. The runtime and its reactor take 9 %, the crate and its parser 5 %, ours 3.5 %. A message
costs one write, two reads, 1.4 `epoll_wait` and 1.5 `futex` calls on threads that sleep and wake each other; blocking
sockets cost one write and two reads on one thread. So what is above the sockets is the runtime's, and the raw crate has it
too. Less would take a connection that is read without the shared reactor and without a task of its own, and so a client
of our own in place of a well-kept one.

**One awaiting publisher, against the raw crate.** Ours makes 14 allocations for a message and the raw crate 10: the
flight (which a task can take over when the caller goes away), the boxed future of the link, the channel that outcome comes
through, and the payload's count of references; through `dyn Backplane` the boxed future of the trait is one more. That is
1 to 2 us of some 40, and the runs differ by more than that.

**Many awaiting publishers, against the raw crate.** Each message of a crowd costs its caller a future, a place in a frame
and a wake-up of its own, which no batch takes away; publish-many has none of these, and takes 0.25 us of CPU. With 1024
publishers on one thread 22 % is the call itself up to its place, 15 % that place in a frame, 12 % the runtime, which wakes
the task and runs it, 23 % the kernel, 8 % the clock, which each caller that waits looks at once, 7 % the payload's count of
references, 7 % receiving, and the rest copies and the client. The call is made of locks again: those of the lane's table,
the lane, the bound on what is pending, and the frame. Since the callers of a frame share one place for its outcome, and
have no channel each, a message of 1024 publishers makes next to no allocation, and takes a sixth fewer instructions. With
64 publishers two thirds are the kernel's: a frame is one round trip for all of them, takes some 110 us, of which a message
alone would take 80, and ends with threads that sleep and are woken; both cores idle for two fifths of the time. All 64 are in
each frame: more of them cannot be, and two frames of half of them would cost two such round trips. The ratio is against
what the raw crate pays for a command, and that differs from machine to machine: with 1024 publishers 1.5 us where ours takes
0.43 (ratios 2.5 to 2.7 and 4.3), 2.7 us on two others (2.2 and 3.7, before callers shared their place; 2.2 to 2.6 and 4.8 to
5.5 after), and 8 to 9 us on those for which the targets were set, where they were 3.3 and 5.5 before that.

**In process, against tokio broadcast.** All in all a message takes a fifth more CPU time than with broadcast, 0.21 us against
0.18; but nearly all of it is the publisher's, who puts each message into the queue of each subscription, and the reader
takes many at once. With broadcast publisher and reader share the work, and the two cores: hence half the throughput. A publish
by a `Publisher` is 1040 instructions, and no part of it stands out: 250 from the lane to the bus, 200 for the topic, its lock and
its name, 250 for the route, what was heard of the publisher and the message, 110 for the queue, 130 for waking and for giving
way to other tasks, and the rest calls. Four locks are taken one after the other, and the payload's and the channel's counts
of references go up and down. broadcast has one lock for its end and one for a slot. It has no names, no prefixes, no
publishers that are told apart, no bound in bytes, and no broker that could be cut off. Less would take a frame that gives its
payload away, some 12 ns. A node that looks the channel up for each message, without a `Publisher`, takes 30 ns more, and
through `dyn Backplane` the boxed future is another 15 ns. When the reader has taken all, both tasks wait for each other, and
the runtime looks for other work: a quarter of the samples.

**In process, on several cores.** Publishers of different channels do not wait for each other, on one node or on two: a
message costs each of two 190 to 240 ns, and one alone 175 to 200, in rounds in which two broadcast channels take 95 ns
each. Before lanes, routes and topics had locks of their own it was 330 to 470 ns in the same rounds. What is left in common
are the 64 parts of a table: one pair of channels in 64 meets in one, and on the bus a message to very many subscriptions
holds up the others of its part. Publishers of one channel do wait, as it has one order: with two of them the median of four
runs was between 0.2 and 1.3 us, and p99.9 between 0.6 and 28 us, the most when one was put to sleep for the other.

**100 000 channels in process.** Subscribing to them grows faster than their number in time and not in work: by instructions
each takes 5.7 thousand, subscribe to drop, whether there are 10, 20 or 100 thousand (callgrind), and 0.28 us of time with
1000, 0.45 with 10 000 and 0.9 with 100 000. The tables, half a kilobyte a channel, no longer fit into the caches, and a table
that doubles moves to fresh pages. A publish to one of so many pays for the same misses.

";

/// How the numbers come about.
const METHOD: &str = "\
## Method

- One process, one run, one tokio runtime for all. The contenders are interleaved round by round and change their order
  in each, so that noise hits all alike. Figures are medians over the rounds. Ratios are medians of the ratio within the
  round: they hold on other machines, and on a noisy one, where absolute figures drift.
- Publisher and subscriber are two nodes, and with the raw crate two connections, in that process; the server is
  another one on the same machine. Its CPU time is told apart.
- Messages are counted where they arrive. One that is lost, comes twice or is reported as lost voids the run.
- The raw crate is set up well: RESP3, `TCP_NODELAY`, no timers, the same pipeline buffer as ours. \"raw push\" does its
  work inside the push closure and wakes nobody; \"raw push to task\" hands over to a task, as a backplane has to;
  \"raw stream\" is its `PubSubStream`.
- \"blocking sockets\" is RESP written by hand on `std::net::TcpStream`, one thread that writes to one socket and reads
  from another: what Redis and the kernel take, and nothing else.
- Latency is taken when the subscriber has the message: one at a time, and at a fixed rate from the time at which it should
  have been sent, which corrects coordinated omission.
- Our subscriptions have room for all that is under way. The publishers in one process wait for the subscriber, so that tokio
  broadcast overwrites nothing.
- Allocations are counted in a program of its own, as counting slows them down.

";

/// Where the first table stands in a file for readers.
const MARKS: [&str; 2] = ["<!-- numbers -->", "<!-- end of numbers -->"];

/// What stands before the numbers and after them in a text with marks, the marks included.
#[must_use]
pub fn around_numbers(text: &str) -> Option<(&str, &str)> {
    let [begin, end] = MARKS;
    let begin = text.find(begin)? + begin.len();
    let end = begin + text[begin..].find(end)?;
    Some((&text[..begin], &text[end..]))
}

/// The table of ratios and targets, for a file for readers.
#[must_use]
pub fn headline(comparison: &Comparison) -> String {
    report::markdown::headline(comparison)
}

/// The page and its plots, each with its path beside the page.
#[must_use]
pub fn files(comparison: &Comparison, growth: &Growth) -> Vec<(String, String)> {
    let [latencies, throughput] = plot::comparison(comparison);
    let mut page = INTRODUCTION.to_owned();
    page.push_str(&report::markdown::markdown(comparison));
    page.push_str("\n![Latency](plots/latency.svg)\n\n![Throughput](plots/throughput.svg)\n\n");
    page.push_str(&growth::markdown(growth));
    page.push_str("\n![Growth](plots/growth.svg)\n\n");
    page.push_str(LIMITS);
    page.push_str(METHOD.trim_end());
    page.push('\n');
    [
        ("NUMBERS.md", page),
        ("plots/latency.svg", plot::page(&[latencies])),
        ("plots/throughput.svg", plot::page(&[throughput])),
        ("plots/growth.svg", plot::page(&growth::charts(growth))),
    ]
    .map(|(name, text)| (name.to_owned(), text))
    .into()
}
