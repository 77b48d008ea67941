//! NATS subjects: their form, and a search for subjects that contain one another, in time proportional to their length.

use std::collections::HashMap;

use super::issues::Issues;
use crate::jwt::quote::cut;

/// The most steps that a search for overlaps may take, for each byte of the subjects; past it the token is refused as
/// too complex. Without the limit, wildcards in every token could make the search quadratic: 40 s for the largest JWT.
/// Legitimate accounts need one or two steps a token, and fewer than 32 subjects cannot exceed the limit, however their
/// wildcards cross.
const STEPS_A_BYTE: usize = 16;

/// The form of a subject (jwt `types.go`, `Subject.Validate`).
pub(super) fn check(subject: &str, of: &str, issues: &mut Issues) {
    if subject.is_empty() {
        issues.add("subject", || format!("{of} has an empty subject: name one"));
    } else if subject.contains(' ') {
        issues.add("subject", || {
            format!("the subject {:?} of {of} holds a blank: remove it", cut(subject))
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

/// The form of a subject in permissions. One for subscribing may be followed by a blank and a queue.
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
                        "the publish permission {:?} names a queue, which only subscribing has: remove it",
                        cut(subject)
                    )
                });
            }
        }
        _ => issues.add("permission", || {
            format!("the permission {:?} holds too many blanks: write a subject, and for subscribing a queue after one blank", cut(subject))
        }),
    }
}

/// Whether a subject has wildcards as the library counts them: `*` as a whole token, or `>` as the last one.
pub(in crate::jwt) fn has_wildcards(subject: &str) -> bool {
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
pub(in crate::jwt) enum Overlap<'s> {
    /// No subject is contained in another one.
    None,
    /// The second matches every subject that the first matches.
    Found(&'s str, &'s str),
    /// Too many wildcards cross each other for a bounded search.
    TooComplex,
}

/// The subjects as a tree of tokens.
struct Tree<'s> {
    nodes: Vec<Node<'s>>,
}

#[derive(Default)]
struct Node<'s> {
    children: HashMap<&'s str, usize>,
    /// The subject that ends here.
    subject: Option<&'s str>,
}

/// Whether one of `subjects` is contained in another one of them; a duplicate counts as contained.
pub(in crate::jwt) fn overlap<'s>(subjects: &[&'s str]) -> Overlap<'s> {
    overlap_in(subjects, &mut steps_for(subjects))
}

/// The steps that a search among `subjects` may take.
fn steps_for(subjects: &[&str]) -> usize {
    STEPS_A_BYTE * subjects.iter().map(|subject| subject.len() + 1).sum::<usize>()
}

fn overlap_in<'s>(subjects: &[&'s str], steps: &mut usize) -> Overlap<'s> {
    let mut tree = Tree {
        nodes: vec![Node::default()],
    };
    for subject in subjects {
        if tree.insert(subject) {
            return Overlap::Found(subject, subject);
        }
    }
    for subject in subjects {
        match tree.containing(subject, steps) {
            Ok(None) => {}
            Ok(Some(other)) => return Overlap::Found(subject, other),
            Err(OutOfSteps) => return Overlap::TooComplex,
        }
    }
    Overlap::None
}

struct OutOfSteps;

impl<'s> Tree<'s> {
    /// Adds a subject; true if it was there already.
    fn insert(&mut self, subject: &'s str) -> bool {
        let mut at = 0;
        for token in subject.split('.') {
            let next = self.nodes.len();
            let child = *self.nodes[at].children.entry(token).or_insert(next);
            if child == next {
                self.nodes.push(Node::default());
            }
            at = child;
        }
        self.nodes[at].subject.replace(subject).is_some()
    }

    /// Another subject that contains `subject`, if there is one.
    ///
    /// Goes one token at a time and keeps every node that the tokens so far lead to. Without recursion, because a
    /// subject may have as many tokens as a JWT has bytes.
    fn containing(&self, subject: &str, steps: &mut usize) -> Result<Option<&'s str>, OutOfSteps> {
        let another = |at: &usize| self.nodes[*at].subject.filter(|other| *other != subject);
        let mut reached = vec![0];
        for token in subject.split('.') {
            let mut next = Vec::with_capacity(reached.len());
            for at in reached {
                *steps = steps.checked_sub(1).ok_or(OutOfSteps)?;
                let children = &self.nodes[at].children;
                // A subject that ends in `>` here contains every continuation.
                if let Some(other) = children.get(">").and_then(another) {
                    return Ok(Some(other));
                }
                next.extend(children.get("*").filter(|_| token != "*"));
                next.extend(children.get(token));
            }
            reached = next;
        }
        Ok(reached.iter().find_map(another))
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
                assert_eq!(matches!(overlap(&pair), Overlap::Found(..)), contained, "{pair:?}");
            }
        }
    }

    /// Every sequence of `tokens` tokens out of `alphabet`, each made unique by one more token.
    fn crossing(tokens: u32, alphabet: [&str; 2]) -> Vec<String> {
        let token = |bits: u32, at: u32| alphabet[usize::from(bits >> at & 1 == 1)];
        (0..1 << tokens)
            .map(|bits| {
                (0..tokens)
                    .map(|at| token(bits, at))
                    .chain([format!("t{bits}").as_str()])
                    .collect::<Vec<_>>()
                    .join(".")
            })
            .collect()
    }

    #[test]
    fn crossing_wildcards_cost_a_bounded_number_of_steps() {
        let subjects = crossing(13, ["a", "*"]);
        let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
        assert_eq!(overlap(&subjects), Overlap::TooComplex);
        let mut steps = usize::MAX;
        assert_eq!(overlap_in(&subjects, &mut steps), Overlap::None);
        assert!(
            usize::MAX - steps > steps_for(&subjects),
            "this case no longer needs the bound"
        );
    }

    #[test]
    fn few_crossing_wildcards_are_within_the_bound() {
        let subjects = crossing(5, ["a", "*"]);
        let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
        assert_eq!(overlap(&subjects), Overlap::None);
    }

    #[test]
    fn legitimate_exports_cost_two_steps_a_token() {
        let subjects: Vec<String> = (0..10_000).map(|n| format!("orders.eu.{n}.*.created")).collect();
        let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
        let mut steps = 10_000 * 5 * 2;
        assert_eq!(overlap_in(&subjects, &mut steps), Overlap::None);
    }

    #[test]
    fn a_subject_as_long_as_a_jwt_does_not_overflow_the_stack() {
        let long = "a.".repeat(500_000);
        assert_eq!(overlap(&[&long, "b"]), Overlap::None);
        assert_eq!(overlap(&[&long, "a.>"]), Overlap::Found(&long, "a.>"));
    }

    proptest::proptest! {
        #[test]
        fn any_subjects_are_judged_as_pair_by_pair_within_the_bound(subjects in proptest::collection::vec("[ab*>]?(\\.[ab*>]){0,4}", 0..12)) {
            let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
            let pairs = || (0..subjects.len()).flat_map(|one| (0..subjects.len()).map(move |other| (one, other)));
            let contained = pairs().any(|(one, other)| one != other && is_contained(subjects[one], subjects[other]));
            proptest::prop_assert_eq!(overlap(&subjects) != Overlap::None, contained);
        }
    }
}
