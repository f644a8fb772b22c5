//! Short names for contents: what tells the versions of a pod template apart.

use serde::Serialize;

/// Letters that make no words and digits that look like no letters. Kubernetes' choice.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A name for `content`, as Kubernetes makes them: FNV-1a of 32 bits, its decimal digits spelt with safe
/// letters. `collisions` changes the name should another content have it already.
///
/// The name depends on how the content is serialised, so nobody may conclude from two names that two
/// contents differ.
pub(crate) fn hash(content: &impl Serialize, collisions: Option<i32>) -> String {
    let text = serde_json::to_vec(content).expect("API objects are serialisable");
    let suffix = collisions.map(i32::to_le_bytes).unwrap_or_default();
    let suffix = if collisions.is_some() { suffix.as_slice() } else { &[] };
    let fnv = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let sum = text.iter().chain(suffix).fold(0x811c_9dc5, fnv);
    sum.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_differ() {
        assert_eq!(hash(&"web", None), hash(&"web", None));
        assert_ne!(hash(&"web", None), hash(&"web", Some(0)));
        assert_ne!(hash(&"web", Some(1)), hash(&"web", Some(2)));
        assert_ne!(hash(&"web", None), hash(&"wed", None));
        let name = hash(&"web", None);
        assert!(name.len() <= 10 && name.bytes().all(|byte| ALPHABET.contains(&byte)), "{name}");
    }
}
