//! How `revoke` reaches the mesh: over the public port of any of its nodes, or over the admin socket of one on this machine.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;

use crate::api::{Problem, Propagation};
use crate::cli::account::Named;
use crate::cli::exit::{Exit, Failure};
use crate::cli::target::Target;
use crate::client::{AdminClient, Answer, ClientError, PublicClient};
use crate::config::ClientCert;
use crate::jwt::AccountKey;

#[derive(Debug, Args)]
pub(super) struct WayOptions {
    /// The public port of a node, https://HOST:PORT. Given several times, the next one is asked where one does not answer.
    /// Left out, the node's admin socket on this machine is used
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "socket", "node"])]
    url: Vec<String>,
    /// The authority that signed the certificate of the public port, or that certificate itself
    #[arg(long, value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
    /// A client certificate, for a public port that wants one
    #[arg(long, value_name = "FILE", requires = "client_key", requires = "url")]
    client_cert: Option<PathBuf>,
    /// The key of the client certificate
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

/// The present token of an account.
pub(super) struct Present {
    pub(super) token: String,
    pub(super) etag: String,
    /// What time it is at the node, Unix seconds, if it says.
    pub(super) time: Option<i64>,
}

/// What became of a token that was pushed.
pub(super) enum Pushed {
    /// It is stored, and in force there.
    Stored(Propagation),
    /// These bytes were stored already: nothing was waited for.
    Unchanged,
    /// Another token was stored meanwhile.
    Overtaken,
}

pub(super) enum Way {
    Socket(AdminClient),
    /// The node that answered last comes first.
    Public(Vec<PublicClient>),
}

impl WayOptions {
    pub(super) fn open(self) -> Result<Way, Failure> {
        if self.url.is_empty() {
            return Ok(Way::Socket(self.target.client()?));
        }
        let own = self.client_cert.zip(self.client_key);
        let own = own.map(|(cert, key)| ClientCert { cert, key });
        let clients = self.url.iter().map(|url| {
            PublicClient::new(url, self.ca.as_deref(), own.as_ref())
                .map_err(|error| Failure::new(Exit::Usage, format!("{error:#}")))
        });
        Ok(Way::Public(clients.collect::<Result<_, _>>()?))
    }
}

impl Way {
    /// The key of the account that the argument names.
    pub(super) async fn key(&self, account: &Named) -> Result<AccountKey, Failure> {
        match (self, account) {
            (_, Named::Key(key)) => Ok(*key),
            (Self::Socket(client), named) => Ok(named.key(client).await?),
            (Self::Public(_), Named::Name(_)) => Err(Failure::new(
                Exit::Usage,
                "the public port does not list accounts: name the account by its public key, which begins with A",
            )),
        }
    }

    /// The newest token of `account` in the mesh.
    pub(super) async fn present(&mut self, account: AccountKey) -> Result<Present, Failure> {
        match self {
            Self::Socket(client) => {
                let found = client.account(account).await?;
                let token = found.token.ok_or_else(|| {
                    let why = found.damage.unwrap_or_default();
                    Failure::new(Exit::Failed, format!("the stored JWT cannot be read: {why}"))
                })?;
                Ok(Present {
                    token,
                    etag: found.etag,
                    // It runs on this machine.
                    time: None,
                })
            }
            Self::Public(_) => {
                let answer = self
                    .first_answer(|client| async move { client.newest(account).await })
                    .await?;
                if answer.status != 200 {
                    return Err(refused(&answer));
                }
                let etag = answer.etag().unwrap_or_default().to_owned();
                let token = String::from_utf8_lossy(&answer.body).into_owned();
                let time = answer.date();
                Ok(Present { token, etag, time })
            }
        }
    }

    /// Pushes `token` in the place of the one whose ETag is `etag`, and waits at most `seconds` until it is in force
    /// everywhere.
    pub(super) async fn push(
        &mut self,
        account: AccountKey,
        token: &str,
        etag: &str,
        seconds: u64,
    ) -> Result<Pushed, Failure> {
        let body = Bytes::copy_from_slice(token.as_bytes());
        match self {
            Self::Socket(client) => match client.submit_and_wait(account, body, etag, seconds).await {
                Ok(None) => Ok(Pushed::Unchanged),
                Ok(Some(found)) => Ok(Pushed::Stored(found)),
                Err(ClientError::Problem(problem)) if problem.status == 412 => Ok(Pushed::Overtaken),
                Err(error) => Err(error.into()),
            },
            Self::Public(_) => {
                let submitting = |client: PublicClient| {
                    let body = body.clone();
                    async move { client.submit_and_wait(account, body, etag, seconds).await }
                };
                let answer = self.first_answer(submitting).await?;
                match answer.status {
                    200 if answer.body.is_empty() => Ok(Pushed::Unchanged),
                    200 => serde_json::from_slice(&answer.body)
                        .map(Pushed::Stored)
                        .map_err(|error| {
                            let why = "it is stored, but where it is in force cannot be read from the answer";
                            Failure::new(
                                Exit::Failed,
                                format!("{why}: {error}; is this program of the node's version?"),
                            )
                        }),
                    412 => Ok(Pushed::Overtaken),
                    _ => Err(refused(&answer)),
                }
            }
        }
    }

    /// The answer of the first node that gives one. A node that cannot answer now is as good as none.
    async fn first_answer<F>(&mut self, ask: impl Fn(PublicClient) -> F) -> Result<Answer, Failure>
    where
        F: Future<Output = Result<Answer, ClientError>>,
    {
        let Self::Public(clients) = self else {
            unreachable!("only the public port is asked so");
        };
        let mut last = None;
        for at in 0..clients.len() {
            match ask(clients[at].clone()).await {
                Ok(answer) if (answer.status < 500 && answer.status != 429) || at + 1 == clients.len() => {
                    clients.swap(0, at);
                    return Ok(answer);
                }
                Ok(answer) => last = Some(refused(&answer)),
                Err(error) => last = Some(error.into()),
            }
        }
        Err(last.expect("there is at least one URL"))
    }
}

/// What an answer other than 200 means. The public port refuses in one plain sentence.
fn refused(answer: &Answer) -> Failure {
    Failure::from(ClientError::Problem(Problem {
        code: String::new(),
        status: answer.status,
        title: String::new(),
        detail: String::from_utf8_lossy(&answer.body).trim().to_owned(),
    }))
}
