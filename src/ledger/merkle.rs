//! The Merkle tree of RFC 6962 section 2.1 (the same as RFC 9162 section 2.1), as compact ranges.
//!
//! A [`CompactRange`] holds the hashes of the largest aligned subtrees of a run of leaves: at most
//! two per level. Runs that touch can be joined, so each segment carries its own range and the whole
//! tree is their sum; no leaf is hashed twice.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// What RFC 6962 puts before a leaf's bytes.
pub(crate) const LEAF_PREFIX: u8 = 0x00;
/// What RFC 6962 puts before the two children of a node.
const NODE_PREFIX: u8 = 0x01;

/// A SHA-256 value of the tree; written as standard base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Standard base64 with padding, as checkpoints hold it.
    pub fn to_base64(self) -> String {
        STANDARD.encode(self.0)
    }

    /// Reads [`Hash::to_base64`]; `None` unless it is exactly 32 bytes in canonical base64.
    pub fn from_base64(text: &str) -> Option<Self> {
        STANDARD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// The first four bytes: enough to tell which line of a segment changed, not a proof of anything.
    pub(crate) fn mark(self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_base64())
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_base64(&text).ok_or_else(|| serde::de::Error::custom("not a base64 hash of 32 bytes"))
    }
}

/// The hash of a leaf: `SHA-256(0x00 || line)`.
pub fn leaf_hash(line: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([LEAF_PREFIX]);
    hasher.update(line);
    Hash(hasher.finalize().into())
}

/// The hash of a leaf whose bytes already stand behind [`LEAF_PREFIX`]: one pass, no copy.
pub(crate) fn leaf_hash_prefixed(prefixed: &[u8]) -> Hash {
    debug_assert_eq!(prefixed.first(), Some(&LEAF_PREFIX));
    Hash(Sha256::digest(prefixed).into())
}

/// The hash of an inner node: `SHA-256(0x01 || left || right)`.
pub fn node_hash(left: Hash, right: Hash) -> Hash {
    let mut bytes = [0; 65];
    bytes[0] = NODE_PREFIX;
    bytes[1..33].copy_from_slice(&left.0);
    bytes[33..].copy_from_slice(&right.0);
    Hash(Sha256::digest(bytes).into())
}

/// The root of the tree without leaves: `SHA-256("")`.
pub fn empty_root() -> Hash {
    Hash(Sha256::digest([]).into())
}

/// A full aligned subtree: its leaves are `start .. start + 2^level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) start: u64,
    pub(crate) level: u8,
    pub(crate) hash: Hash,
}

impl Node {
    /// A node of one leaf.
    pub(crate) const fn leaf(index: u64, hash: Hash) -> Self {
        Self { start: index, level: 0, hash }
    }

    const fn end(&self) -> u64 {
        self.start + (1 << self.level)
    }

    /// Whether this node is the left child of a node whose right child follows it at the same level.
    const fn is_left_of(&self, right: &Self) -> bool {
        self.level == right.level && self.start.is_multiple_of(2 << self.level)
    }
}

/// The leaves `begin .. end`, as the fewest full subtrees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CompactRange {
    /// Kept so that two ranges are equal only at the same place, also when they are empty.
    begin: u64,
    end: u64,
    nodes: Vec<Node>,
}

impl CompactRange {
    /// No leaves, at `begin`.
    pub(crate) const fn empty_at(begin: u64) -> Self {
        Self { begin, end: begin, nodes: Vec::new() }
    }

    /// The range that [`CompactRange::hashes`] described; `None` if the number of hashes does not fit.
    pub(crate) fn from_hashes(begin: u64, end: u64, hashes: &[Hash]) -> Option<Self> {
        let mut range = Self::empty_at(begin);
        let mut hashes = hashes.iter();
        while range.end < end {
            let level = largest_aligned_level(range.end, end);
            range.nodes.push(Node { start: range.end, level, hash: *hashes.next()? });
            range.end = range.nodes.last()?.end();
        }
        (hashes.next().is_none() && begin <= end).then_some(range)
    }

    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// The hashes of the subtrees, left to right. With `begin` and `end` they are the whole range.
    pub(crate) fn hashes(&self) -> Vec<Hash> {
        self.nodes.iter().map(|node| node.hash).collect()
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Adds the next leaf. One node hash per leaf on average.
    pub(crate) fn push(&mut self, leaf: Hash) {
        self.push_node(Node::leaf(self.end, leaf));
    }

    /// Adds a subtree that starts where this range ends; joins siblings as far as they go.
    pub(crate) fn push_node(&mut self, mut node: Node) {
        debug_assert_eq!(node.start, self.end, "runs must touch");
        self.end = node.end();
        while let Some(left) = self.nodes.last().filter(|left| left.is_left_of(&node)) {
            node = Node { start: left.start, level: node.level + 1, hash: node_hash(left.hash, node.hash) };
            self.nodes.pop();
        }
        self.nodes.push(node);
    }

    /// Adds the leaves of `next`, which starts where this range ends.
    pub(crate) fn append(&mut self, next: &Self) {
        for node in &next.nodes {
            self.push_node(*node);
        }
    }

    /// The Merkle tree hash of the range's leaves: RFC 6962 `MTH`, for a range that starts at a place
    /// where a subtree of this size may start (always true for `begin == 0`).
    pub(crate) fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev();
        let Some(last) = nodes.next() else { return empty_root() };
        nodes.fold(last.hash, |right, left| node_hash(left.hash, right))
    }
}

/// The level of the largest aligned subtree that starts at `start` and ends at or before `end`.
fn largest_aligned_level(start: u64, end: u64) -> u8 {
    let by_alignment = if start == 0 { 63 } else { start.trailing_zeros() };
    let by_size = (end - start).ilog2();
    u8::try_from(by_alignment.min(by_size)).expect("a level is at most 63")
}

/// The largest power of two smaller than `n`; `n` is at least 2.
fn split_point(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// The audit path of leaf `index` in the tree of the first `size` leaves (RFC 6962 section 2.1.1),
/// leaf side first. `subtree(begin, end)` gives `MTH(D[begin:end])`.
pub(crate) fn inclusion_path(index: u64, size: u64, subtree: &dyn Fn(u64, u64) -> Hash) -> Vec<Hash> {
    debug_assert!(index < size);
    let (mut begin, mut end) = (0, size);
    let mut path = Vec::new();
    while end - begin > 1 {
        let middle = begin + split_point(end - begin);
        if index < middle {
            path.push(subtree(middle, end));
            end = middle;
        } else {
            path.push(subtree(begin, middle));
            begin = middle;
        }
    }
    path.reverse();
    path
}

/// The proof that the tree of `old` leaves is a prefix of the tree of `new` (RFC 6962 section 2.1.2);
/// empty when `old` is 0 or equals `new`.
pub(crate) fn consistency_path(old: u64, new: u64, subtree: &dyn Fn(u64, u64) -> Hash) -> Vec<Hash> {
    debug_assert!(old <= new);
    if old == 0 || old == new {
        return Vec::new();
    }
    let (mut begin, mut end) = (0, new);
    let mut path = Vec::new();
    let mut whole = true;
    while old != end {
        let middle = begin + split_point(end - begin);
        if old <= middle {
            path.push(subtree(middle, end));
            end = middle;
        } else {
            path.push(subtree(begin, middle));
            begin = middle;
            whole = false;
        }
    }
    if !whole {
        path.push(subtree(begin, end));
    }
    path.reverse();
    path
}

/// The root that `path` leads to from `leaf` (RFC 9162 section 2.1.3.2); `None` if the path has the
/// wrong length.
pub fn root_from_inclusion(leaf: Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(*sibling, hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(hash, *sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// Whether `path` proves that the tree of `old` leaves with `old_root` is a prefix of the tree of
/// `new` leaves with `new_root` (RFC 9162 section 2.1.4.2).
pub fn is_consistent(old: u64, old_root: Hash, new: u64, new_root: Hash, path: &[Hash]) -> bool {
    if old > new {
        return false;
    }
    if old == new {
        return path.is_empty() && old_root == new_root;
    }
    if old == 0 {
        return path.is_empty() && old_root == empty_root();
    }
    let mut siblings = path.iter().copied();
    let first = if old.is_power_of_two() { Some(old_root) } else { siblings.next() };
    let Some(first) = first else { return false };
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut new_hash) = (first, first);
    for sibling in siblings {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(sibling, old_hash);
            new_hash = node_hash(sibling, new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(new_hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == old_root && new_hash == new_root
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `MTH` of RFC 6962, word by word.
    fn naive(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            many => {
                let mut k = 1;
                while k * 2 < many.len() {
                    k *= 2;
                }
                node_hash(naive(&many[..k]), naive(&many[k..]))
            }
        }
    }

    fn leaves(n: usize) -> Vec<Hash> {
        (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    fn range(leaves: &[Hash], begin: usize, end: usize) -> CompactRange {
        let mut range = CompactRange::empty_at(begin as u64);
        leaves[begin..end].iter().for_each(|leaf| range.push(*leaf));
        range
    }

    #[test]
    fn known_roots_of_the_certificate_transparency_test_vectors_hold() {
        // The inputs and roots that RFC 6962 implementations share (ct merkletree tests).
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let mut tree = CompactRange::empty_at(0);
        let hex = |hash: Hash| hash.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(tree.root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        tree.push(leaf_hash(inputs[0]));
        assert_eq!(hex(tree.root()), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        inputs[1..].iter().for_each(|input| tree.push(leaf_hash(input)));
        assert_eq!(hex(tree.root()), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
    }

    #[test]
    fn every_leaf_of_every_small_tree_has_a_proof_that_leads_to_its_root_and_to_no_other() {
        let all = leaves(70);
        for size in 1..=70_u64 {
            let root = naive(&all[..size as usize]);
            let subtree = |a: u64, b: u64| naive(&all[a as usize..b as usize]);
            for index in 0..size {
                let path = inclusion_path(index, size, &subtree);
                let leaf = all[index as usize];
                assert_eq!(root_from_inclusion(leaf, index, size, &path), Some(root));
                let other = all[(index as usize + 1) % 70];
                assert_ne!(root_from_inclusion(other, index, size, &path), Some(root));
                let mut longer = path.clone();
                longer.push(leaf);
                assert_eq!(root_from_inclusion(leaf, index, size, &longer), None);
                if !path.is_empty() {
                    assert_eq!(root_from_inclusion(leaf, index, size, &path[1..]), None);
                }
            }
        }
    }

    #[test]
    fn every_pair_of_small_trees_is_proved_consistent_and_a_fork_is_not() {
        let all = leaves(40);
        let mut forked = all.clone();
        forked[0] = leaf_hash(b"another past");
        for new in 0..=40_u64 {
            for old in 0..=new {
                let subtree = |a: u64, b: u64| naive(&all[a as usize..b as usize]);
                let path = consistency_path(old, new, &subtree);
                let (old_root, new_root) = (naive(&all[..old as usize]), naive(&all[..new as usize]));
                assert!(is_consistent(old, old_root, new, new_root, &path), "{old} {new}");
                if old > 0 {
                    let fork_root = naive(&forked[..old as usize]);
                    assert!(!is_consistent(old, fork_root, new, new_root, &path), "{old} {new}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_tree_cut_into_any_ranges_has_the_naive_root(n in 0_usize..300, cuts in prop::collection::vec(0_usize..300, 0..6)) {
            let all = leaves(n);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(n)).collect();
            cuts.extend([0, n]);
            cuts.sort_unstable();
            let mut tree = CompactRange::empty_at(0);
            for pair in cuts.windows(2) {
                let part = range(&all, pair[0], pair[1]);
                let again = CompactRange::from_hashes(pair[0] as u64, part.end(), &part.hashes());
                prop_assert_eq!(again.as_ref(), Some(&part));
                tree.append(&part);
            }
            prop_assert_eq!(tree.root(), naive(&all));
            prop_assert_eq!(tree.end(), n as u64);
        }

        #[test]
        fn a_range_with_a_hash_too_many_or_too_few_is_refused(begin in 0_u64..500, len in 1_u64..500) {
            let mut range = CompactRange::empty_at(begin);
            (0..len).for_each(|i| range.push(leaf_hash(&i.to_be_bytes())));
            let mut hashes = range.hashes();
            hashes.push(empty_root());
            prop_assert!(CompactRange::from_hashes(begin, begin + len, &hashes).is_none());
            hashes.truncate(hashes.len() - 2);
            prop_assert!(CompactRange::from_hashes(begin, begin + len, &hashes).is_none());
        }
    }
}
