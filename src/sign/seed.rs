//! The private key of an operator, from the seed in a file.

/// A key that signs.
pub type SigningKey = nkeys::KeyPair;

/// The key of an operator whose seed is a line of `text`. An error says what is wrong, and never shows any of it.
pub fn operator_key_of(text: &str) -> Result<SigningKey, &'static str> {
    let mut lines = text.lines().map(str::trim);
    let seed = lines.find(|line| line.starts_with("SO"));
    let seed = seed.ok_or("it holds no seed of an operator's key (a line that begins with SO)")?;
    SigningKey::from_seed(seed).map_err(|_| "its seed is damaged: a character is wrong or missing")
}
