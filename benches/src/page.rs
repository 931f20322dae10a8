//! The page of numbers, `NUMBERS.md`, with its plots.

use crate::compare::Comparison;
use crate::growth::{self, Growth};
use crate::{plot, report};

/// What the page says before the numbers.
const INTRODUCTION: &str = "\
# Numbers

How fast the backplane crates are, beside what they are built on. Made by

```console
cargo run --release -p backplane-benches -- page
```

which starts its own `redis-server`, takes some ten minutes, and overwrites this page. Close everything else first.
One part, in the terminal: `compare` or `growth` in place of `page`, each with `--quick`, `--format json` and `--plot
FILE.svg`. `cargo bench -p backplane-benches` runs criterion benches of single parts.

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

/// The page and its plots, each with its path beside the page.
#[must_use]
pub fn files(comparison: &Comparison, growth: &Growth) -> Vec<(String, String)> {
    let [latencies, throughput] = plot::comparison(comparison);
    let mut page = INTRODUCTION.to_owned();
    page.push_str(&report::markdown::markdown(comparison));
    page.push_str("\n![Latency](plots/latency.svg)\n\n![Throughput](plots/throughput.svg)\n\n");
    page.push_str(&growth::markdown(growth));
    page.push_str("\n![Growth](plots/growth.svg)\n\n");
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
