//! What a delivery costs: the real server as a process, against a receiver and a load generator in
//! this one, and the parts that a delivery is made of, each alone. `cargo bench --bench delivery`,
//! or `-- --quick`.
//!
//! Figures of one machine mean little by themselves; the ratio to the parts, measured in the same
//! run, means more.

#![allow(
    clippy::disallowed_methods,
    clippy::too_many_lines,
    reason = "it drives real processes by real time"
)]

mod database;
mod parts;
mod scenario;
mod server;
mod table;
mod wire;

#[path = "../../tests/it/support/postgres.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod postgres;

use std::time::{Duration, Instant};

use clap::Parser as _;
use indicatif::{ProgressBar, ProgressStyle};

use self::parts::Part;
use self::scenario::{Bench, Sizes};
use self::table::Table;

/// Measures what a delivery costs.
#[derive(Debug, clap::Parser)]
struct Options {
    /// Under a minute, with less of everything
    #[arg(long)]
    quick: bool,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,

    /// Only on these databases
    #[arg(long, value_delimiter = ',', default_value = "sqlite,postgres")]
    database: Vec<Database>,

    /// Only these measures
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "parts,flow,latency,floods,embedded,backlog,boot"
    )]
    only: Vec<Measure>,

    /// Only with so many endpoints
    #[arg(long, value_delimiter = ',')]
    endpoints: Vec<usize>,

    /// With so many sending threads, each in turn
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,

    /// Beside so many deliveries that ended before
    #[arg(long, default_value_t = 0)]
    history: u64,

    #[arg(long, hide = true)]
    part: Option<Part>,
    #[arg(long, hide = true, default_value = "")]
    target: String,
    #[arg(long, hide = true, default_value_t = 0)]
    count: u64,
    #[arg(long, hide = true, default_value_t = 1)]
    batch: u64,
    /// What `cargo bench` says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Database {
    Sqlite,
    Postgres,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Measure {
    /// The parts of a delivery, each alone
    Parts,
    /// Publishing, delivering while publishing, draining a backlog
    Flow,
    /// From the publish call to the first byte at the receiver
    Latency,
    /// Latency beside receivers that flood
    Floods,
    /// Publishing in the engine's own process
    Embedded,
    /// Memory, and the time of a start, with a long backlog
    Backlog,
    /// The time of a start with many endpoints
    Boot,
}

/// Waits in real time until `done` says so.
fn until(what: &str, patience: Duration, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed() < patience,
            "{what}: not within {patience:?}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn main() {
    let options = Options::parse();
    if let Some(part) = options.part {
        return parts::run(part, &options.target, options.count, options.batch);
    }
    let sizes = if options.quick {
        Sizes::QUICK
    } else {
        Sizes::FULL
    };
    let bar = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("{spinner} {elapsed_precise} {wide_msg} {bar:30} {pos}/{len}")
            .expect("a template"),
    );
    bar.enable_steady_tick(Duration::from_millis(200));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut table = Table::default();
    for database in &options.database {
        let cluster = match database {
            Database::Sqlite => None,
            Database::Postgres => match postgres::Cluster::own() {
                Some(cluster) => Some(cluster),
                None => continue,
            },
        };
        let mut bench = Bench::new(cluster.as_ref(), sizes, options.history, &bar, &mut table);
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            for measure in &options.only {
                match measure {
                    Measure::Parts => bench.parts().await,
                    Measure::Latency => bench.latency().await,
                    Measure::Floods => {
                        for threads in [1, 2] {
                            bench.floods(threads).await;
                        }
                    }
                    Measure::Embedded => bench.embedded().await,
                    Measure::Backlog => bench.backlog().await,
                    Measure::Boot => bench.boot().await,
                    Measure::Flow => {
                        let told =
                            (!options.endpoints.is_empty()).then_some(&options.endpoints[..]);
                        let threads = options.threads.iter().copied().map(Some);
                        let mut threads: Vec<Option<usize>> = threads.collect();
                        if threads.is_empty() {
                            threads.push(None);
                        }
                        for threads in threads {
                            for endpoints in told.unwrap_or(sizes.endpoints) {
                                bench.flow(*endpoints, threads).await;
                            }
                        }
                    }
                }
            }
        });
    }
    bar.finish_and_clear();
    if options.json {
        println!("{}", table.json())
    } else {
        println!("{table}")
    }
}
