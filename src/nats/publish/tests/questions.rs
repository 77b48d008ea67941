//! What servers are asked in the simulated world, and answer.

use std::collections::BTreeSet;

use super::world::{World, server};
use crate::jwt::AccountKey;
use crate::nats::publish::step::{Question, Wanted};
use crate::nats::subjects::ServerInfo;

impl World {
    /// Servers answer what they were asked until now.
    pub(super) fn answer_questions_once(&mut self) {
        for question in std::mem::take(&mut self.questions) {
            self.answer_question(&question);
        }
        self.pump();
    }

    /// Servers answer what they were asked.
    pub(super) fn answer_questions(&mut self) {
        while let Some(question) = self.questions.pop_front() {
            self.answer_question(&question);
        }
        self.pump();
    }

    fn answer_question(&mut self, question: &Question) {
        let id = match question {
            Question::Ping | Question::HeldByAll(_) => "",
            Question::Alive(id) | Question::Loaded(id) | Question::Held(id, _) => id,
        };
        let is_reached = |name: &&String| !self.hung && (id.is_empty() || *name == id);
        let reached: Vec<ServerInfo> = self
            .servers
            .iter()
            .filter(is_reached)
            .map(|name| server(name))
            .collect();
        if let Question::HeldByAll(account) = question {
            let readers = reached.iter().map(|info| info.id.clone());
            self.read_by.insert(*account, readers.collect());
        }
        for info in reached {
            let all = self.held.entry(info.id.clone()).or_default();
            match question {
                Question::Ping | Question::Alive(_) => self.propagation.heard(&info, self.now),
                Question::Loaded(_) => match self.propagation.loaded(&info, self.now) {
                    Some(Wanted::ChangedSince(behind)) => {
                        let is_changed = |account: &&AccountKey| {
                            let revision = self.rows.get(*account);
                            revision.map_or(behind == 0, |revision| *revision > behind)
                        };
                        let changed = Some(all.keys().filter(is_changed).copied().collect());
                        self.propagation.compared(&info.id, changed, self.now);
                    }
                    Some(Wanted::All) => self.propagation.listed_all(&info.id, all.keys().copied().collect()),
                    None => {}
                },
                Question::Held(_, account) | Question::HeldByAll(account) => {
                    let held = all.get(account).copied();
                    self.propagation.arrived(&info, *account, self.now);
                    let held = self.judge(*account, held);
                    let revision = self.rows.get(account).copied().unwrap_or(0);
                    self.propagation.held(&info, *account, revision, held, self.now);
                }
            }
        }
    }

    pub(super) fn ask(&mut self, question: Question) {
        if !self.may_ask {
            return self.propagation.cannot_ask(self.now);
        }
        match question {
            Question::Ping => {}
            Question::Alive(ref id) | Question::Loaded(ref id) | Question::Held(ref id, _) => {
                self.asked += 1;
                *self.asked_of.entry(id.clone()).or_default() += 1;
            }
            Question::HeldByAll(account) => {
                self.reads += 1;
                // Who does not answer before it is sent was not read.
                self.read_by.insert(account, BTreeSet::new());
            }
        }
        if self.asks_slowly {
            self.questions.push_back(question);
        } else {
            self.answer_question(&question);
        }
    }
}
