//! Digests, the names of all content: of SHA-256, which everybody uses and we do, and of SHA-512, which the
//! specification has for who wants it.

use std::fmt;

use sha2::{Digest as _, Sha256, Sha512};

/// How a digest is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Algorithm {
    #[default]
    Sha256,
    Sha512,
}

impl Algorithm {
    pub(crate) const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// A digest in its one accepted spelling: `sha256:` and 64, or `sha512:` and 128 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest(Value);

/// The rarer one is elsewhere, so that the others stay small.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Value {
    Sha256([u8; 32]),
    Sha512(Box<[u8; 64]>),
}

impl Digest {
    /// The digest that we give content ourselves.
    pub(crate) fn of(bytes: &[u8]) -> Digest {
        Digest(Value::Sha256(Sha256::digest(bytes).into()))
    }

    /// Whether this is the digest of these bytes.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        let mut digester = Digester::new(self.algorithm());
        digester.update(bytes);
        digester.digest() == *self
    }

    pub(crate) fn parse(text: &str) -> Option<Digest> {
        let (algorithm, hex) = text.split_once(':')?;
        Digest::from_hex(hex).filter(|digest| digest.algorithm().name() == algorithm)
    }

    /// Of the digits alone: how many there are says how it was made.
    pub(crate) fn from_hex(hex: &str) -> Option<Digest> {
        let value = match hex.len() {
            64 => Value::Sha256(bytes_of(hex)?),
            128 => Value::Sha512(Box::new(bytes_of(hex)?)),
            _ => return None,
        };
        Some(Digest(value))
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self.0 {
            Value::Sha256(_) => Algorithm::Sha256,
            Value::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Only the digits, as file names have them.
    pub(crate) fn hex(&self) -> String {
        let bytes: &[u8] = match &self.0 {
            Value::Sha256(bytes) => bytes,
            Value::Sha512(bytes) => &**bytes,
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The tag by which something about this manifest is found where there is no better way, as the specification has
    /// it: tags are shorter than the digests of SHA-512.
    pub(crate) fn tag(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(64);
        format!("{}-{hex}", self.algorithm().name())
    }
}

fn bytes_of<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = nibble(digits[0])? << 4 | nibble(digits[1])?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Digests content as it comes.
pub(crate) enum Digester {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Digester {
    pub(crate) fn new(algorithm: Algorithm) -> Digester {
        match algorithm {
            Algorithm::Sha256 => Digester::Sha256(Sha256::new()),
            Algorithm::Sha512 => Digester::Sha512(Box::default()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Digester::Sha256(state) => state.update(bytes),
            Digester::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything so far.
    pub(crate) fn digest(&self) -> Digest {
        Digest(match self {
            Digester::Sha256(state) => Value::Sha256(state.clone().finalize().into()),
            Digester::Sha512(state) => Value::Sha512(Box::new(Sha512::clone(state).finalize().into())),
        })
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self {
            Digester::Sha256(_) => Algorithm::Sha256,
            Digester::Sha512(_) => Algorithm::Sha512,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_have_one_spelling() {
        let of_nothing = [
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
             47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
        ];
        for (text, algorithm) in of_nothing.into_iter().zip(Algorithm::ALL) {
            let digest = Digest::parse(text).unwrap();
            assert_eq!((digest.to_string(), digest.algorithm()), (text.to_owned(), algorithm));
            assert_eq!(Digester::new(algorithm).digest(), digest);
            assert!(digest.is_of(b"") && !digest.is_of(b"x"));
            let hex = digest.hex();
            assert_eq!(Digest::from_hex(&hex), Some(digest.clone()));
            assert!(crate::reference::is_tag(&digest.tag()), "{}", digest.tag());
            let other = Algorithm::ALL.into_iter().find(|other| *other != algorithm).unwrap().name();
            for wrong in [
                hex.clone(),
                format!("{other}:{hex}"),
                format!("{text}0"),
                text[..text.len() - 2].to_owned(),
                text.to_uppercase(),
                text.replace('3', "g"),
                text.replace('3', "é"),
                format!("sha384:{hex}"),
            ] {
                assert_eq!(Digest::parse(&wrong), None, "{wrong}");
            }
        }
    }
}
