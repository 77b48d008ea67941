//! What a running node reads again when it is asked to: its certificates, and the operators of its configuration.

use super::life::{Node, blocking};
use super::trust::{read_operators, submit_operators_if_possible};
use crate::tasks::chain;
use crate::tls::ReloadableTls;

impl Node {
    /// Reads the certificates and the operators' files again, in a task of its own, on threads that may wait for a disk.
    /// What cannot be used is logged, and changes nothing.
    pub fn reload(&self) {
        let (tls, paths, resolver) = (self.tls.clone(), self.operators.clone(), self.resolver.clone());
        self.serving.spawn("reading files again", async move {
            let read = blocking(move || {
                tls.iter().for_each(ReloadableTls::reload);
                read_operators(&paths)
            });
            let submitted = match read.await {
                Ok(Ok(operators)) => submit_operators_if_possible(&resolver, &operators).await,
                Ok(Err(error)) => Err(error.into()),
                Err(error) => Err(error),
            };
            if let Err(error) = submitted {
                let error = chain(error.as_ref());
                tracing::error!("the operators in the configuration were not read again: {error}");
            }
        });
    }
}
