//! Questions to another node's publisher, and their answers, as they travel: a version, then the content (postcard).
//!
//! The rooms below carry them as bytes. During an upgrade the two nodes may be of different versions, and postcard would read
//! one form as another. So what changes here, or in a type that is named here, gets another version.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::jwt::AccountKey;
use crate::state::Revision;

/// The first byte of a question and of its answer. Before there were versions it was the length of a name, of at most 63 bytes.
const VERSION: u8 = 64;

/// A question to another node's publisher.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::resolver) struct Question {
    pub(in crate::resolver) nats_cluster: String,
    pub(in crate::resolver) wait_ms: u64,
    pub(in crate::resolver) about: About,
}

/// What is asked.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::resolver) enum About {
    /// At which servers this is in force.
    InForce {
        account: AccountKey,
        revision: Revision,
        /// How long ago that began which is timed.
        since_ms: Option<u64>,
    },
    /// Which of these have streams.
    Streams(Vec<AccountKey>),
}

/// The other node speaks another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::resolver) struct OtherVersion;

/// A question or an answer as it travels.
pub(in crate::resolver) fn encode(content: &impl Serialize) -> Bytes {
    let encoded = postcard::to_extend(content, vec![VERSION]);
    Bytes::from(encoded.expect("plain data into memory"))
}

/// What `bytes` say. Bytes that are not of this form whole are not of this version.
pub(in crate::resolver) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, OtherVersion> {
    match bytes.split_first() {
        Some((&VERSION, content)) => match postcard::take_from_bytes(content) {
            Ok((content, [])) => Ok(content),
            _ => Err(OtherVersion),
        },
        _ => Err(OtherVersion),
    }
}

/// The answer to a question of another version: the own version and no content, which is no answer in any version.
pub(in crate::resolver) fn not_understood() -> Bytes {
    Bytes::from_static(&[VERSION])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::nats::seen::{Answered, Enforcement, Told};
    use crate::resolver::nats::streams::{StreamsFound, StreamsUnknown};
    use crate::state::Server;

    fn account() -> AccountKey {
        AccountKey::from_bytes([7; 32])
    }

    fn asked(about: About) -> Bytes {
        encode(&Question {
            nats_cluster: "fra".to_owned(),
            wait_ms: 300,
            about,
        })
    }

    fn answered() -> Bytes {
        let server = Server {
            id: "NA".to_owned(),
            name: "n1".to_owned(),
            cluster: "c".to_owned(),
            version: "2.10.26".to_owned(),
            behind: Some(5),
        };
        let enforcement = Enforcement::Refused;
        encode(&Answered {
            told: vec![Told { server, enforcement }],
            closed: Some(2),
            elapsed_ms: None,
        })
    }

    /// Where one of these is red, the form has changed: then [`VERSION`] is raised, and the bytes here are written anew.
    #[test]
    fn g5_what_travels_between_nodes_keeps_its_form() {
        let key = "07".repeat(32);
        let about = About::InForce {
            account: account(),
            revision: 9,
            since_ms: Some(4),
        };
        let found: Result<StreamsFound, StreamsUnknown> = Ok(vec![(account(), 3)]);
        let silent: Result<StreamsFound, StreamsUnknown> = Err(StreamsUnknown::Silent {
            server: "n1".to_owned(),
            others: 1,
        });
        for (bytes, wanted) in [
            (asked(about), format!("4003667261ac0200{key}090104")),
            (
                asked(About::Streams(vec![account()])),
                format!("4003667261ac020101{key}"),
            ),
            (
                answered(),
                "4001024e41026e31016307322e31302e3236010504010200".to_owned(),
            ),
            (encode(&found), format!("400001{key}03")),
            (encode(&silent), "400106026e3101".to_owned()),
        ] {
            assert_eq!(data_encoding::HEXLOWER.encode(&bytes), wanted);
        }
    }

    #[test]
    fn g5_what_is_of_another_version_is_said_to_be_and_never_misread() {
        let question = asked(About::Streams(vec![account()]));
        assert!(decode::<Question>(&question).is_ok() && decode::<Answered>(&answered()).is_ok());
        let mut newer = question.to_vec();
        newer[0] += 1;
        // As it was before there were versions.
        let without = &question[1..];
        let mut longer = question.to_vec();
        longer.push(0);
        for other in [&newer, without, &longer, &question[..question.len() - 1], &[]] {
            assert_eq!(decode::<Question>(other), Err(OtherVersion), "{other:?}");
        }
        for other in [&not_understood()[..], &answered()[1..], &[VERSION + 1]] {
            assert_eq!(decode::<Answered>(other), Err(OtherVersion), "{other:?}");
        }
    }
}
