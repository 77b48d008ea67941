//! FORMS OF OUR OWN for what openraft agrees on: log ids, votes, memberships. The log and the state
//! carry these and never openraft's own serialization, so that another version of openraft reads the same bytes.
//!
//! Each form is encoded with postcard, inside a record that carries a format number. A field is never removed or
//! reordered: a new layout is a new form, under a new format number of the record.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};

use super::runtime;

/// A log index and the leader that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogId {
    pub(super) term: u64,
    pub(super) node: u64,
    pub(super) index: u64,
}

impl From<runtime::LogId> for LogId {
    fn from(id: runtime::LogId) -> Self {
        Self {
            term: id.leader_id.term,
            node: id.leader_id.node_id,
            index: id.index,
        }
    }
}

impl From<LogId> for runtime::LogId {
    fn from(form: LogId) -> Self {
        Self::new(LeaderId::new(form.term, form.node), form.index)
    }
}

/// A vote, given to a candidate or committed to a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Vote {
    term: u64,
    node: u64,
    committed: bool,
}

impl Vote {
    /// Whether a quorum has given it: its node leads.
    pub(super) fn is_committed(&self) -> bool {
        self.committed
    }
}

impl From<runtime::Vote> for Vote {
    fn from(vote: runtime::Vote) -> Self {
        Self {
            term: vote.leader_id.term,
            node: vote.leader_id.node_id,
            committed: vote.committed,
        }
    }
}

impl From<Vote> for runtime::Vote {
    fn from(form: Vote) -> Self {
        Self {
            leader_id: LeaderId::new(form.term, form.node),
            committed: form.committed,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    name: String,
    peer: String,
    store: String,
}

/// The voters (two sets of them during a membership change), and what is known of each member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Membership {
    configs: Vec<BTreeSet<u64>>,
    members: BTreeMap<u64, Member>,
}

impl From<&runtime::Membership> for Membership {
    fn from(membership: &runtime::Membership) -> Self {
        let member = |member: &runtime::Member| Member {
            name: member.name.clone(),
            peer: member.peer.clone(),
            store: member.store.clone(),
        };
        Self {
            configs: membership.get_joint_config().clone(),
            members: membership.nodes().map(|(id, found)| (*id, member(found))).collect(),
        }
    }
}

impl TryFrom<Membership> for runtime::Membership {
    type Error = String;

    /// Fails where no quorum could be formed of it, or a voter is not a member.
    fn try_from(form: Membership) -> Result<Self, String> {
        let member = |member: Member| runtime::Member {
            name: member.name,
            peer: member.peer,
            store: member.store,
        };
        let members: BTreeMap<u64, runtime::Member> =
            form.members.into_iter().map(|(id, form)| (id, member(form))).collect();
        Self::new(form.configs, members).map_err(|error| error.to_string())
    }
}

/// A membership and the id of the entry that set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AgreedMembership {
    log_id: Option<LogId>,
    membership: Membership,
}

impl From<&runtime::StoredMembership> for AgreedMembership {
    fn from(stored: &runtime::StoredMembership) -> Self {
        Self {
            log_id: stored.log_id().map(LogId::from),
            membership: stored.membership().into(),
        }
    }
}

impl TryFrom<AgreedMembership> for runtime::StoredMembership {
    type Error = String;

    fn try_from(form: AgreedMembership) -> Result<Self, String> {
        let membership = form.membership.try_into()?;
        Ok(Self::new(form.log_id.map(runtime::LogId::from), membership))
    }
}

/// The bytes of a form.
pub(super) fn encode(form: &impl Serialize) -> Bytes {
    // Plain data in memory: postcard fails only where a type refuses to be serialized, and these do not.
    postcard::to_stdvec(form).map(Bytes::from).expect("plain data encodes")
}

/// The form that `bytes` encode, or what is wrong with them.
pub(super) fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((form, [])) => Ok(form),
        Ok((_, rest)) => Err(format!("{} bytes follow it", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, node: u64, index: u64) -> runtime::LogId {
        LogId { term, node, index }.into()
    }

    fn membership() -> runtime::Membership {
        let member = |name: &str| runtime::Member {
            name: name.to_owned(),
            peer: format!("{name}:1"),
            store: "5t".to_owned(),
        };
        let members = BTreeMap::from([(1, member("a")), (300, member("b"))]);
        runtime::Membership::new(vec![[1].into(), [1, 300].into()], members).expect("every voter is a member")
    }

    #[test]
    fn the_bytes_of_each_form_do_not_change() {
        let hex = |bytes: Bytes| data_encoding::HEXLOWER.encode(&bytes);
        let vote = runtime::Vote {
            leader_id: LeaderId::new(2, 300),
            committed: true,
        };
        assert_eq!(hex(encode(&LogId::from(id(2, 300, 7)))), "02ac0207");
        assert_eq!(hex(encode(&Vote::from(vote))), "02ac0201");
        // Two sets of voters; two members: id, name, peer, store.
        let members =
            "02".to_owned() + "0101" + "0201ac02" + "02" + "0101610361 3a31023574" + "ac020162 03623a31023574";
        assert_eq!(hex(encode(&Membership::from(&membership()))), members.replace(' ', ""));
        let stored = runtime::StoredMembership::new(Some(id(2, 300, 7)), membership());
        assert_eq!(
            hex(encode(&AgreedMembership::from(&stored))),
            "01".to_owned() + "02ac0207" + &members.replace(' ', "")
        );
        let none = runtime::StoredMembership::default();
        assert_eq!(hex(encode(&AgreedMembership::from(&none))), "000000");
    }

    #[test]
    fn each_form_comes_back_as_it_was() {
        let stored = runtime::StoredMembership::new(Some(id(9, 1, u64::MAX)), membership());
        let form: AgreedMembership = decode(&encode(&AgreedMembership::from(&stored))).expect("its own bytes");
        assert_eq!(runtime::StoredMembership::try_from(form), Ok(stored));
        for committed in [false, true] {
            let vote = runtime::Vote {
                leader_id: LeaderId::new(u64::MAX, 3),
                committed,
            };
            let form: Vote = decode(&encode(&Vote::from(vote))).expect("its own bytes");
            assert_eq!(runtime::Vote::from(form), vote);
        }
        assert!(decode::<LogId>(&[1, 2]).is_err(), "truncated");
    }
}
