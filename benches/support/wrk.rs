//! `wrk` as the load generator for lookups over connections that are kept.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::mint::Minted;
use super::process::find_program;

/// What `wrk` measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Answers a second.
    pub(crate) rate: f64,
    /// Milliseconds.
    pub(crate) p99: f64,
    /// How many answers there were.
    pub(crate) count: f64,
}

/// A generator that asks for accounts at random.
pub(crate) struct Wrk {
    program: PathBuf,
    script: PathBuf,
}

impl Wrk {
    /// Writes its script into `folder`.
    pub(crate) fn new(folder: &Path, accounts: &[Minted]) -> Self {
        let keys = folder.join("keys.txt");
        let lines: String = accounts.iter().map(|account| format!("{}\n", account.id)).collect();
        fs::write(&keys, lines).expect("the bench's own folder is writable");
        let script = folder.join("random.lua");
        // Requests are made before the clock starts and only picked while it runs: a script that makes strings
        // collects garbage, and its pauses stand in the p99 of the server.
        let text = format!(
            r#"
local requests = {{}}
function init(args)
  math.randomseed(tonumber(tostring(requests):match("0x(%x+)"), 16) % 2147483647)
  for key in io.lines("{}") do
    requests[#requests + 1] = wrk.format(nil, "/jwt/v1/accounts/" .. key)
  end
  collectgarbage()
end
function request()
  return requests[math.random(#requests)]
end
function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("result %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(99), failed))
end
"#,
            keys.display()
        );
        fs::write(&script, text).expect("the bench's own folder is writable");
        Self {
            program: find_program("wrk", "wrk"),
            script,
        }
    }

    /// Asks `server` for `seconds` over `connections`.
    pub(crate) fn run(&self, scheme: &str, server: SocketAddr, connections: usize, seconds: usize) -> Load {
        let mut command = Command::new(&self.program);
        command
            .arg("-t1")
            .arg(format!("-c{connections}"))
            .arg(format!("-d{seconds}s"));
        command.arg("-s").arg(&self.script).arg(format!("{scheme}://{server}"));
        let output = command.output().expect("wrk can be started");
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find_map(|line| line.strip_prefix("result "));
        let numbers: Vec<f64> = line
            .unwrap_or_default()
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        let [count, micros, p99, failed] = numbers[..] else {
            panic!(
                "wrk ended with {}: {text}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        };
        assert!(failed == 0.0, "{failed} of {count} lookups failed:\n{text}");
        Load {
            rate: count / micros * 1e6,
            p99: p99 / 1e3,
            count,
        }
    }
}
