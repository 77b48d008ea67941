//! A node that answers requests over the system account, and a user of that account who asks.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::mint::{Account, Operator, User, now};
use super::nats_server::{NatsServer, resolver_config};
use super::nats_user::{Message, NatsUser};
use super::node::{NatsLink, Node, Options};
use super::process::{PATIENCE, eventually, free_port};

pub(crate) const UPDATE: &str = "$SYS.REQ.CLAIMS.UPDATE";
pub(crate) const LIST: &str = "$SYS.REQ.CLAIMS.LIST";
pub(crate) const DELETE: &str = "$SYS.REQ.CLAIMS.DELETE";
pub(crate) const PACK: &str = "$SYS.REQ.CLAIMS.PACK";

pub(crate) fn lookup_of(account: &Account) -> String {
    format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", account.id())
}

pub(crate) fn update_of(account: &Account) -> String {
    format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", account.id())
}

/// How long a client waits at the most: nsc, and controllers.
pub(crate) const IN_TIME: Duration = Duration::from_secs(1);

/// A node that answers over a nats-server, and an account that it has.
pub(crate) struct Answering {
    pub(crate) operator: Operator,
    pub(crate) account: Account,
    pub(crate) token: String,
    pub(crate) node: Node,
    pub(crate) server: NatsServer,
}

impl Answering {
    /// The server fetches accounts over HTTP.
    #[track_caller]
    pub(crate) fn start(version: &str) -> Self {
        Self::start_with(version, |operator, node| {
            resolver_config(&operator.token(), &node.accounts_url())
        })
    }

    #[track_caller]
    pub(crate) fn start_with(version: &str, config: impl FnOnce(&Operator, &Node) -> String) -> Self {
        let (operator, account, port) = (Operator::new("O"), Account::new("A"), free_port());
        let node = node_for(&operator, &operator.system.answering_user(), port);
        let token = operator.account_at(&account, now() - 60);
        node.put(&account, &token);
        let config = config(&operator, &node);
        let server = NatsServer::start_on_port(version, port, &config);
        let answering = Self {
            operator,
            account,
            token,
            node,
            server,
        };
        answering.system().wait_until_answered(&answering.account);
        answering
    }

    /// A user of the system account who may do anything.
    #[track_caller]
    pub(crate) fn system(&self) -> Asker {
        Asker::new(&self.server, &self.operator)
    }
}

/// A node that trusts `operator`, holds its system account, and answers over the server at `port` as `user`.
#[track_caller]
pub(crate) fn node_for(operator: &Operator, user: &User, port: u16) -> Node {
    let options = Options {
        nats: vec![NatsLink::plain(vec![format!("nats://127.0.0.1:{port}")], user.creds())],
        log: Some("off,jwtmesh=debug"),
        ..Options::default()
    };
    let node = Node::start(&operator.token(), options);
    node.put(&operator.system, &operator.system_token());
    node
}

/// A user of the system account who asks.
pub(crate) struct Asker(pub(crate) NatsUser);

impl Asker {
    #[track_caller]
    pub(crate) fn new(server: &NatsServer, operator: &Operator) -> Self {
        let user = operator.system.user();
        Self(eventually("a system user gets in", || {
            NatsUser::connect(server.address(), &user).ok()
        }))
    }

    /// The first answer, if one comes in time, and how long it took.
    pub(crate) fn try_ask(
        &mut self,
        subject: &str,
        header: Option<&str>,
        payload: &[u8],
        patience: Duration,
    ) -> Option<(Message, Duration)> {
        let inbox = self.0.inbox();
        let asked = Instant::now();
        self.0.request_to(subject, &inbox, header, payload);
        loop {
            let message = self.0.next(patience)?;
            if message.subject == inbox {
                return Some((message, asked.elapsed()));
            }
        }
    }

    /// The answer, which comes in time and has no headers.
    #[track_caller]
    pub(crate) fn ask(&mut self, subject: &str, payload: &[u8]) -> Vec<u8> {
        let (message, elapsed) = self
            .try_ask(subject, None, payload, PATIENCE)
            .unwrap_or_else(|| panic!("{subject}: no answer"));
        assert!(!message.has_headers, "{subject}");
        assert!(elapsed < IN_TIME, "{subject}: {elapsed:?}");
        message.payload
    }

    /// The same as JSON, from a node.
    #[track_caller]
    pub(crate) fn ask_json(&mut self, subject: &str, payload: &[u8]) -> Value {
        let answer: Value = serde_json::from_slice(&self.ask(subject, payload)).expect("JSON");
        let server = &answer["server"];
        assert!(
            server["name"].as_str().is_some_and(|name| name.starts_with("jwtmesh-")),
            "{answer}"
        );
        assert!(!server["id"].as_str().unwrap_or_default().is_empty(), "{answer}");
        assert!(server["seq"].as_u64() > Some(0), "{answer}");
        assert_eq!(server["ver"], env!("CARGO_PKG_VERSION"));
        let time: jiff::Timestamp = server["time"].as_str().unwrap().parse().expect("RFC 3339");
        assert!((time.as_second() - now()).abs() < 60, "{answer}");
        assert!(
            answer.get("data").is_some() != answer.get("error").is_some(),
            "one of both: {answer}"
        );
        answer
    }

    /// The description of the error that is answered.
    #[track_caller]
    pub(crate) fn refused(&mut self, subject: &str, payload: &[u8]) -> String {
        let answer = self.ask_json(subject, payload);
        assert_eq!(answer["error"]["code"], 500, "{answer}");
        answer["error"]["description"].as_str().expect("a sentence").to_owned()
    }

    /// Everything that a pack consists of, without its end.
    #[track_caller]
    pub(crate) fn pack(&mut self, hash: &[u8]) -> Vec<String> {
        let inbox = self.0.inbox();
        self.0.request_to(PACK, &inbox, None, hash);
        let mut lines = Vec::new();
        loop {
            let message = self.0.next(PATIENCE).expect("an end");
            assert!(!message.has_headers);
            if message.payload.is_empty() {
                return lines;
            }
            lines.push(String::from_utf8(message.payload).expect("text"));
        }
    }

    /// Waits until a node answers.
    #[track_caller]
    pub(crate) fn wait_until_answered(&mut self, account: &Account) {
        eventually("a node answers", || {
            self.try_ask(&lookup_of(account), None, b"", Duration::from_millis(200))
        });
    }
}
