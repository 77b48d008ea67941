//! A NATS client that shows what a user sees: the server's words when it refuses, and the moment of a disconnection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::mint::User;
use super::process::PATIENCE;

/// A message that arrived.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) subject: String,
    /// Whether it has headers, which are left out of the payload.
    pub(crate) has_headers: bool,
    pub(crate) payload: Vec<u8>,
}

/// A connected user.
#[derive(Debug)]
pub(crate) struct NatsUser {
    stream: TcpStream,
    read: Vec<u8>,
    inbox: Vec<Message>,
    error: Option<String>,
    subscriptions: u32,
}

/// What a server has sent.
enum Event {
    Pong,
    Message,
    Other,
}

impl NatsUser {
    /// Logs in; gives the server's `-ERR` text if it refuses.
    pub(crate) fn connect(server: SocketAddr, user: &User) -> Result<Self, String> {
        Self::log_in(server, user).map_err(|error| error.to_string())
    }

    fn log_in(server: SocketAddr, user: &User) -> io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = Self {
            stream,
            read: Vec::new(),
            inbox: Vec::new(),
            error: None,
            subscriptions: 0,
        };
        let greeting = client.line(PATIENCE)?;
        let info: Value = serde_json::from_str(greeting.strip_prefix("INFO ").unwrap_or_default())?;
        let nonce = info["nonce"].as_str().unwrap_or_default();
        let signature = user.key.sign(nonce.as_bytes()).map_err(io::Error::other)?;
        let login = json!({
            "jwt": user.token, "sig": BASE64URL_NOPAD.encode(&signature), "verbose": false, "pedantic": false,
            "lang": "test", "version": "0", "protocol": 1, "headers": true,
        });
        write!(client.stream, "CONNECT {login}\r\nPING\r\n")?;
        while !matches!(client.event(PATIENCE)?, Event::Pong) {}
        Ok(client)
    }

    /// Whether the connection answers.
    pub(crate) fn ping(&mut self) -> bool {
        let answered = |client: &mut Self| -> io::Result<()> {
            client.stream.write_all(b"PING\r\n")?;
            while !matches!(client.event(PATIENCE)?, Event::Pong) {}
            Ok(())
        };
        answered(self).is_ok()
    }

    /// Waits until the server closes the connection. Gives the server's reason; `None` if it does not close in time.
    pub(crate) fn disconnected(&mut self, patience: Duration) -> Option<String> {
        let deadline = Instant::now() + patience;
        loop {
            match self.event(deadline.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(error) if is_timeout(&error) => return None,
                Err(_) => return Some(self.error.clone().unwrap_or_default()),
            }
        }
    }

    /// Subscribes; the subscription is in force on this server when this returns.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, subject: &str) {
        self.subscriptions += 1;
        write!(self.stream, "SUB {subject} {}\r\n", self.subscriptions).expect("the server takes a subscription");
        assert!(self.ping(), "subscribing to {subject}: {:?}", self.error);
    }

    /// Publishes; the server has taken the message when this returns.
    #[track_caller]
    pub(crate) fn publish(&mut self, subject: &str, payload: &[u8]) {
        self.send(subject, "", payload);
        assert!(self.ping(), "publishing to {subject}: {:?}", self.error);
    }

    /// Publishes without waiting for the server.
    #[track_caller]
    pub(crate) fn send(&mut self, subject: &str, reply: &str, payload: &[u8]) {
        let mut bytes = format!("PUB {subject} {reply} {}\r\n", payload.len()).into_bytes();
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        self.stream.write_all(&bytes).expect("the server takes a message");
    }

    /// Publishes with a reply subject, and a header if one is given; the server has taken the message when this returns.
    #[track_caller]
    pub(crate) fn request_to(&mut self, subject: &str, reply: &str, header: Option<&str>, payload: &[u8]) {
        match header {
            None => self.send(subject, reply, payload),
            Some(header) => {
                let head = format!("NATS/1.0\r\n{header}\r\n\r\n");
                let total = head.len() + payload.len();
                let mut bytes = format!("HPUB {subject} {reply} {} {total}\r\n{head}", head.len()).into_bytes();
                bytes.extend_from_slice(payload);
                bytes.extend_from_slice(b"\r\n");
                self.stream.write_all(&bytes).expect("the server takes a message");
            }
        }
        assert!(self.ping(), "publishing to {subject}: {:?}", self.error);
    }

    /// A subject for answers that no other client uses, subscribed to.
    #[track_caller]
    pub(crate) fn inbox(&mut self) -> String {
        let inbox = format!("_INBOX.test.{}", nkeys::KeyPair::new_user().public_key());
        self.subscribe(&inbox);
        inbox
    }

    /// The next message, if one arrives in time.
    pub(crate) fn next(&mut self, patience: Duration) -> Option<Message> {
        let deadline = Instant::now() + patience;
        while self.inbox.is_empty() {
            self.event(deadline.saturating_duration_since(Instant::now())).ok()?;
        }
        Some(self.inbox.remove(0))
    }

    /// Sends a request and gathers `count` answers, as JSON; fewer if they do not come in time.
    pub(crate) fn ask(&mut self, subject: &str, payload: &[u8], count: usize, patience: Duration) -> Vec<Value> {
        let inbox = format!("_INBOX.test.{}", self.subscriptions);
        self.subscribe(&inbox);
        self.send(subject, &inbox, payload);
        let mut answers = Vec::new();
        while answers.len() < count {
            let Some(message) = self.next(patience) else { break };
            if message.subject == inbox {
                answers.push(serde_json::from_slice(&message.payload).expect("servers answer in JSON"));
            }
        }
        answers
    }

    fn event(&mut self, patience: Duration) -> io::Result<Event> {
        let line = self.line(patience)?;
        if let Some(text) = line.strip_prefix("-ERR ") {
            let text = text.trim_matches('\'').to_owned();
            self.error = Some(text.clone());
            // An error that ends a connection is followed by the end of the stream; this one is the answer to a login.
            if text == "Authorization Violation" {
                return Err(io::Error::other(text));
            }
        } else if line == "PING" {
            self.stream.write_all(b"PONG\r\n")?;
        } else if line == "PONG" {
            return Ok(Event::Pong);
        } else if let Some(head) = line.strip_prefix("MSG ").or_else(|| line.strip_prefix("HMSG ")) {
            let words: Vec<&str> = head.split(' ').collect();
            let number = |word: Option<&&str>| word.and_then(|word| word.parse().ok()).unwrap_or(0);
            let length: usize = number(words.last());
            while self.read.len() < length + 2 {
                self.more(PATIENCE)?;
            }
            let has_headers = line.starts_with("HMSG ");
            let headers: usize = if has_headers {
                number(words.iter().nth_back(1))
            } else {
                0
            };
            let mut payload: Vec<u8> = self.read.drain(..length).collect();
            payload.drain(..headers);
            self.read.drain(..2);
            self.inbox.push(Message {
                subject: words[0].to_owned(),
                has_headers,
                payload,
            });
            return Ok(Event::Message);
        }
        Ok(Event::Other)
    }

    fn line(&mut self, patience: Duration) -> io::Result<String> {
        loop {
            if let Some(end) = self.read.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.read.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.more(patience)?;
        }
    }

    fn more(&mut self, patience: Duration) -> io::Result<()> {
        if patience.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        self.stream.set_read_timeout(Some(patience))?;
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece)? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                self.error
                    .clone()
                    .unwrap_or_else(|| "closed without a reason".to_owned()),
            )),
            count => {
                self.read.extend_from_slice(&piece[..count]);
                Ok(())
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}
