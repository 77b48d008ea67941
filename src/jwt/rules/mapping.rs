//! Mappings: how they are read, and those that the jwt library takes and nats-server does not install (nats-server
//! `accounts.go`, `AddWeightedMappings`; `sublist.go`, `ValidateMapping`; `subject_transform.go`, `NewSubjectTransform`).

use std::collections::BTreeSet;

use crate::jwt::json::{Fields, Json};
use crate::jwt::rejection::Rejection;

/// A subject whose messages go to other subjects (jwt `account_claims.go`, `Mapping`).
pub(in crate::jwt) struct Mapping<'j> {
    pub(in crate::jwt) from: &'j str,
    pub(in crate::jwt) targets: Vec<Target<'j>>,
}

/// One of the subjects that messages go to (jwt `account_claims.go`, `WeightedMapping`).
pub(in crate::jwt) struct Target<'j> {
    pub(in crate::jwt) subject: &'j str,
    /// Percent; 100 where none is written.
    pub(in crate::jwt) weight: u8,
    /// The only NATS cluster in which it counts; empty for all others.
    pub(in crate::jwt) cluster: &'j str,
}

/// Reads the mappings of `nats`, an account's of version 2.
pub(super) fn read<'j>(nats: &Fields<'j, '_>) -> Result<Vec<Mapping<'j>>, Rejection> {
    let path = nats.path("mappings");
    let wrong = || Rejection::FieldType {
        field: path.clone(),
        wanted: "lists of weighted mappings",
    };
    let target = |json: &'j Json<'_>| {
        let target = Fields::of(json, &path, &["subject", "weight", "cluster"])?;
        let subject = target.text("subject")?;
        // Go reads the weight as a byte; 0 counts as 100.
        let weight = u8::try_from(target.int("weight")?).map_err(|_| wrong())?;
        Ok(Target {
            subject,
            weight: if weight == 0 { 100 } else { weight },
            cluster: target.text("cluster")?,
        })
    };
    let mut mappings = Vec::new();
    for (from, targets) in nats.map("mappings")? {
        let targets = match targets {
            Json::List(targets) => targets.as_slice(),
            Json::Null => &[],
            _ => return Err(wrong()),
        };
        mappings.push(Mapping {
            from,
            targets: targets.iter().map(target).collect::<Result<_, Rejection>>()?,
        });
    }
    Ok(mappings)
}

/// What a token of a destination stands for.
enum Place {
    /// Itself.
    Itself,
    /// Tokens of the source, by the numbers of its wildcards.
    Wildcards(Vec<i64>),
    /// A number made of such tokens, or of the whole subject.
    Partition(Vec<i64>),
    /// A number.
    Random,
}

/// Why nats-server does not install the mapping of `from` to `targets`; `None` if it does.
pub(super) fn defect(from: &str, targets: &[&str]) -> Option<String> {
    if let Some(defect) = form(from) {
        return Some(format!("its subject {defect}"));
    }
    let mut seen = BTreeSet::new();
    for target in targets.iter().filter(|target| !target.is_empty()) {
        if !seen.insert(target) {
            return Some(format!(
                "its destination {target} is there twice, also if for different clusters"
            ));
        }
        if let Some(defect) = transform(from, target) {
            return Some(format!("its destination {target} {defect}"));
        }
    }
    None
}

/// What is wrong with the form of a subject. Functions may have blanks.
fn form(subject: &str) -> Option<&'static str> {
    let tokens: Vec<&str> = subject.split('.').collect();
    let is_blank = |c| matches!(c, '\t' | '\n' | '\u{c}' | '\r' | ' ');
    let is_function = |token: &str| token.starts_with("{{") && token.ends_with("}}");
    if tokens
        .iter()
        .any(|token| token.contains(is_blank) && !is_function(token))
    {
        return Some("has a blank or a tab in it");
    }
    let before_last = tokens.iter().rev().skip(1);
    if before_last.clone().any(|token| *token == ">") {
        return Some("has a > that is not its last token");
    }
    tokens
        .iter()
        .any(|token| token.is_empty())
        .then_some("has an empty token")
}

fn transform(from: &str, target: &str) -> Option<String> {
    if let Some(defect) = form(target) {
        return Some(defect.to_owned());
    }
    let wildcards = from.split('.').filter(|token| *token == "*").count();
    let is_open = |subject: &str| subject.split('.').any(|token| token == ">");
    if target.split('.').any(|token| token == "*") {
        return Some("has a *: name the wildcard of the subject that belongs there, as in $1".to_owned());
    }
    if is_open(from) != is_open(target) {
        return Some("must end in > exactly where the subject does".to_owned());
    }
    let has_wildcards = wildcards > 0 || is_open(from);
    for token in target.split('.') {
        let numbers = match place(token) {
            Ok(Place::Itself | Place::Random) => continue,
            Ok(Place::Partition(_)) if !has_wildcards => continue,
            Ok(Place::Wildcards(numbers) | Place::Partition(numbers)) => numbers,
            Err(defect) => return Some(format!("has {token}, {defect}")),
        };
        let most = i64::try_from(wildcards).unwrap_or(i64::MAX);
        if !has_wildcards || numbers.iter().any(|number| *number > most) {
            return Some(format!("has {token}, but the subject has {wildcards} wildcards (*)"));
        }
    }
    None
}

fn place(token: &str) -> Result<Place, String> {
    if let Some(number) = token.strip_prefix('$').filter(|rest| !rest.is_empty()) {
        // Other tokens may begin with $, as $SYS does.
        return Ok(number
            .parse()
            .map_or(Place::Itself, |number| Place::Wildcards(vec![number])));
    }
    let inner = token.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
    let Some(inner) = inner.filter(|inner| !inner.is_empty()) else {
        return Ok(Place::Itself);
    };
    let unknown = || "which is no function that nats-server knows".to_owned();
    let (name, rest) = inner.trim().split_once('(').ok_or_else(unknown)?;
    let name = name.trim_end();
    let arguments = rest.trim_end().strip_suffix(')').ok_or_else(unknown)?;
    let arguments: Vec<&str> = arguments.split(',').collect();
    let is = |function: &str| is_named(name, function);
    let number = |text: &str| {
        let parsed = text.trim().parse::<i64>().ok();
        parsed.ok_or_else(|| format!("whose argument {text:?} is no number"))
    };
    let numbers = |texts: &[&str]| texts.iter().map(|text| number(text)).collect::<Result<Vec<_>, _>>();
    let wanted = |count: usize| {
        let is_right = arguments.len() == count && arguments.iter().all(|argument| !argument.is_empty());
        is_right
            .then_some(())
            .ok_or_else(|| format!("which takes {count} arguments"))
    };
    let of_32_bits = |number: i64| {
        let fits = i32::try_from(number).is_ok();
        fits.then_some(())
            .ok_or_else(|| format!("whose number {number} is too large"))
    };
    const INDEX_AND_NUMBER: [&str; 6] = [
        "splitFromLeft",
        "splitFromRight",
        "sliceFromLeft",
        "sliceFromRight",
        "left",
        "right",
    ];
    if is("wildcard") {
        wanted(1)?;
        Ok(Place::Wildcards(numbers(&arguments)?))
    } else if is("partition") {
        of_32_bits(number(arguments[0])?)?;
        Ok(Place::Partition(numbers(&arguments[1..])?))
    } else if is("random") {
        wanted(1)?;
        of_32_bits(number(arguments[0])?)?;
        Ok(Place::Random)
    } else if is("split") {
        wanted(2)?;
        Ok(Place::Wildcards(numbers(&arguments[..1])?))
    } else if INDEX_AND_NUMBER.iter().any(|function| is(function)) {
        wanted(2)?;
        of_32_bits(number(arguments[1])?)?;
        Ok(Place::Wildcards(numbers(&arguments[..1])?))
    } else {
        Err(unknown())
    }
}

/// Whether `name` is `function` as nats-server's patterns spell it: each of its words may begin with either case.
fn is_named(name: &str, function: &str) -> bool {
    name.len() == function.len()
        && name.chars().zip(function.chars()).enumerate().all(|(at, (c, wanted))| {
            c == wanted || ((at == 0 || wanted.is_ascii_uppercase()) && c.eq_ignore_ascii_case(&wanted))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdicts are those of nats-server 2.15.2, by `AddWeightedMappings` in a program of its own.
    #[test]
    fn a_mapping_is_doubtful_where_nats_server_does_not_install_it() {
        let table = include_str!("../../../tests/vectors/mappings.tsv");
        let mut verdicts = [0, 0];
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<String> = line.split('\t').map(|field| field.replace("\\t", "\t")).collect();
            let (verdict, from, targets) = (&fields[0], &fields[1], &fields[2..]);
            let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
            let defect = defect(from, &targets);
            assert_eq!(defect.is_none(), verdict == "installed", "{line}: {defect:?}");
            verdicts[usize::from(defect.is_none())] += 1;
        }
        assert!(verdicts.iter().all(|count| *count >= 15), "{verdicts:?}");
    }
}
