//! How this node takes part: what openraft is told, and why Raft may not start.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use super::runtime::Member;
use crate::config::{Acknowledge, Timing};

/// How long a single voter may take to elect itself and apply what its log holds.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(60);

/// This node's identity in the mesh, and its timers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The mesh's name.
    pub cluster: String,
    /// This node's record in the membership.
    pub member: Member,
    /// Raft's timers.
    pub timing: Timing,
    /// When a submission is answered.
    pub acknowledge: Acknowledge,
}

/// Why Raft could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RaftStartError {
    /// openraft refuses the settings or the stores.
    #[error("Raft cannot start: {0}")]
    Core(String),
    /// The node did not elect itself and apply its log in time.
    #[error("this node was not ready to serve within {} s: {reason}", START_TIMEOUT.as_secs())]
    Late {
        /// What it was still waiting for.
        reason: String,
    },
}

pub(super) fn core_error(error: impl std::fmt::Display) -> RaftStartError {
    RaftStartError::Core(error.to_string())
}

impl Settings {
    /// The longest way to another node and back with which the timers work.
    pub(super) fn longest_round_trip(&self) -> Duration {
        Duration::from_millis(match self.timing {
            Timing::Lan => 50,
            Timing::Wan => 300,
        })
    }

    /// How openraft is set up.
    pub fn config(&self) -> Result<Config, RaftStartError> {
        // A follower waits for the longest of these since it last heard its leader, and then for one between the two before it
        // asks for votes. No node grants one earlier, so that a node whose disk stalls for a moment is not deposed.
        let (heartbeat, election_min, election_max) = match self.timing {
            Timing::Lan => (150, 200, 600),
            Timing::Wan => (400, 500, 1500),
        };
        let config = Config {
            cluster_name: self.cluster.clone(),
            heartbeat_interval: heartbeat,
            election_timeout_min: election_min,
            election_timeout_max: election_max,
            // Entries are up to a MiB each; the log store caps a payload by bytes as well.
            max_payload_entries: 64,
            // `stores/trim.rs` asks for snapshots and purges by the log's size in bytes, which the number of entries
            // says little about.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            purge_batch_size: 1024,
            // A leader that restarts would be leader again without an election, in the same term: what it had sent but
            // lost in a power cut, it would send again under the same log id with other contents.
            enable_leader_restore: Some(false),
            // A node that was cut off and returns asks before it raises its term, and so deposes no healthy leader.
            enable_pre_vote: Some(true),
            // A member whose data folder was replaced with an older copy has less than the leader knows it to have. The
            // leader sends it again instead of failing over it.
            allow_log_reversion: Some(true),
            // A leader that has lost its quorum pauses its heartbeats, so that the followers it still reaches can
            // elect another one with the others.
            quorum_loss_probe_interval: Some(2 * election_max),
            ..Config::default()
        };
        config.validate().map_err(core_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_that_agreement_rests_on_hold_for_every_timing() {
        for timing in [Timing::Lan, Timing::Wan] {
            let settings = Settings {
                cluster: "any".to_owned(),
                member: Member::default(),
                timing,
                acknowledge: Acknowledge::default(),
            };
            let config = settings.config().expect("valid settings");
            assert_eq!(config.enable_leader_restore, Some(false));
            assert_eq!(config.enable_pre_vote, Some(true));
            assert_eq!(config.allow_log_reversion, Some(true));
            let probe = config
                .quorum_loss_probe_interval
                .expect("a leader without a quorum falls silent");
            assert!(probe >= 2 * config.election_timeout_max, "{timing:?}: {probe}");
            assert!(matches!(config.snapshot_policy, SnapshotPolicy::Never));
        }
    }
}
