//! The arguments of a bench, after `--` on its command line.

use std::str::FromStr;

/// The value behind `--name`, or `default`. `cargo bench --bench submit -- --rounds 5`
pub(crate) fn argument<T: FromStr>(name: &str, default: T) -> T {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let flag = format!("--{name}");
    let Some(at) = given.iter().position(|word| *word == flag) else {
        return default;
    };
    match given.get(at + 1).and_then(|word| word.parse().ok()) {
        Some(value) => value,
        None => panic!("{flag} wants a value behind it that can be read"),
    }
}
