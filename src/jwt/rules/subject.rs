//! NATS subjects: their form, and which of many contain one another, in time that grows with their text.

use std::collections::HashMap;

use super::super::claims::cut;
use super::Issues;

/// Steps that a search for overlaps may take, for each byte of the subjects. Wildcards in every token could
/// otherwise make it exponential; honest accounts need two or three.
const STEPS_A_BYTE: usize = 64;

/// The form of a subject (jwt `types.go`, `Subject.Validate`).
pub(super) fn check(subject: &str, of: &str, issues: &mut Issues) {
    if subject.is_empty() {
        issues.add("subject", || format!("{of} has an empty subject"));
    } else if subject.contains(' ') {
        issues.add("subject", || {
            format!("the subject {:?} of {of} holds a blank", cut(subject))
        });
    } else if subject.starts_with('.') || subject.ends_with('.') || subject.contains("..") {
        issues.add("subject", || {
            format!(
                "the subject {:?} of {of} has an empty token: check its dots",
                cut(subject)
            )
        });
    }
}

/// A subject in permissions, which may name a queue after a blank where subscribing.
pub(super) fn check_permission(subject: &str, queue: bool, issues: &mut Issues) {
    let of = "default_permissions";
    let parts: Vec<&str> = subject.splitn(4, ' ').collect();
    match parts.as_slice() {
        [one] => check(one, of, issues),
        [one, two] => {
            check(one, of, issues);
            check(two, of, issues);
            if !queue {
                issues.add("permission", || {
                    format!(
                        "the publish permission {:?} names a queue: only subscribing has queues",
                        cut(subject)
                    )
                });
            }
        }
        _ => issues.add("permission", || {
            format!("the permission {:?} holds too many blanks", cut(subject))
        }),
    }
}

/// Whether a subject has wildcards, in the library's sense: as whole tokens, `>` at the end.
pub(super) fn has_wildcards(subject: &str) -> bool {
    subject == ">" || subject.ends_with(".>") || subject.split('.').any(|token| token == "*")
}

/// How many tokens of a subject are `*`.
pub(super) fn stars(subject: &str) -> usize {
    subject.split('.').filter(|token| *token == "*").count()
}

/// Whether `other` matches everything that `subject` does (jwt `types.go`, `IsContainedIn`).
pub(super) fn is_contained(subject: &str, other: &str) -> bool {
    let mut mine = subject.split('.');
    let mut others = other.split('.').peekable();
    while let Some(theirs) = others.next() {
        let Some(token) = mine.next() else { return false };
        if theirs == ">" && others.peek().is_none() {
            return true;
        }
        if theirs != "*" && theirs != token {
            return false;
        }
    }
    mine.next().is_none()
}

/// What a search for overlaps found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Overlap<'s> {
    /// No subject is contained in another one.
    None,
    /// The first is contained in another one.
    Found(&'s str),
    /// Too many wildcards cross each other for a bounded search.
    TooComplex,
}

/// The subjects as a tree of tokens.
struct Tree<'s> {
    nodes: Vec<Node<'s>>,
    steps: usize,
}

#[derive(Default)]
struct Node<'s> {
    children: HashMap<&'s str, usize>,
    /// How many subjects end here.
    ends: usize,
}

/// Whether one of `subjects` is contained in another one of them; the same one twice counts.
pub(super) fn overlap<'s>(subjects: &[&'s str]) -> Overlap<'s> {
    let mut tree = Tree {
        nodes: vec![Node::default()],
        steps: STEPS_A_BYTE * (subjects.iter().map(|subject| subject.len()).sum::<usize>() + 64),
    };
    for subject in subjects {
        tree.insert(subject);
    }
    for subject in subjects {
        let tokens: Vec<&str> = subject.split('.').collect();
        // Each is contained in itself.
        match tree.containing(0, &tokens) {
            None => return Overlap::TooComplex,
            Some(1) => {}
            Some(_) => return Overlap::Found(subject),
        }
    }
    Overlap::None
}

impl<'s> Tree<'s> {
    fn insert(&mut self, subject: &'s str) {
        let mut at = 0;
        for token in subject.split('.') {
            let next = self.nodes.len();
            let child = *self.nodes[at].children.entry(token).or_insert(next);
            if child == next {
                self.nodes.push(Node::default());
            }
            at = child;
        }
        self.nodes[at].ends += 1;
    }

    /// How many subjects below the node `at` contain one with these `tokens`; absent when out of steps. Two are
    /// as good as many.
    fn containing(&mut self, at: usize, tokens: &[&str]) -> Option<usize> {
        self.steps = self.steps.checked_sub(1)?;
        let Some((token, rest)) = tokens.split_first() else {
            return Some(self.nodes[at].ends);
        };
        let mut found = 0;
        let child = |tree: &Self, name: &str| tree.nodes[at].children.get(name).copied();
        // `>` as the last token of another subject contains whatever follows.
        if let Some(full) = child(self, ">")
            && !(*token == ">" && rest.is_empty())
        {
            found += self.nodes[full].ends;
        }
        if let Some(star) = child(self, "*").filter(|_| *token != "*") {
            found += self.containing(star, rest)?;
        }
        if found < 2
            && let Some(same) = child(self, token)
        {
            found += self.containing(same, rest)?;
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_finds_what_comparing_each_pair_finds() {
        let tokens = ["a", "b", "*", ">"];
        let mut all = Vec::new();
        for one in tokens {
            all.push(one.to_owned());
            for two in tokens {
                all.push(format!("{one}.{two}"));
                for three in tokens {
                    all.push(format!("{one}.{two}.{three}"));
                }
            }
        }
        for one in &all {
            for two in &all {
                let pair = [one.as_str(), two.as_str()];
                let contained = is_contained(one, two) || is_contained(two, one);
                assert_eq!(matches!(overlap(&pair), Overlap::Found(_)), contained, "{pair:?}");
            }
        }
    }

    #[test]
    fn crossing_wildcards_cost_a_bounded_number_of_steps() {
        let subjects: Vec<String> = (0..1u32 << 14)
            .map(|bits| {
                (0..14)
                    .map(|at| {
                        if bits >> at & 1 == 1 {
                            "*".to_owned()
                        } else {
                            format!("t{bits}")
                        }
                    })
                    .collect::<Vec<_>>()
                    .join(".")
            })
            .collect();
        let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
        assert_ne!(overlap(&subjects), Overlap::None);
    }
}
