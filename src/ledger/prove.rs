//! Proofs that one can hand on: one line and its way to a signed head, or that one signed head is the
//! past of another.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::checkpoint::{self, Checkpoint};
use super::error::LedgerError;
use super::merkle::{
    CompactRange, Hash, Node, consistency_path, inclusion_path, is_consistent, leaf_hash, root_from_inclusion,
};
use super::note::{NoteFault, VerifierKey};
use super::seal::SegmentRecord;
use super::segment::{self, Files, LineReader, REMOVED, SEAL, Step};
use super::verify::load_public_key;

/// A line, its audit path (RFC 6962 section 2.1.1), and the signed head that it leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The line's exact text, without its newline.
    pub line: String,
    /// Sequence number: the leaf index plus one.
    pub seq: u64,
    /// Place in the tree, from 0.
    pub leaf_index: u64,
    /// Number of leaves of the signed tree.
    pub tree_size: u64,
    /// The siblings from the leaf up, in base64.
    pub path: Vec<Hash>,
    /// The signed head, a whole C2SP note.
    pub checkpoint: String,
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofFault {
    /// The checkpoint is not believed.
    #[error(transparent)]
    Note(#[from] NoteFault),
    /// The numbers of the proof do not fit the checkpoint or the line.
    #[error("the numbers of the proof do not fit together")]
    Numbers,
    /// The path leads to another root.
    #[error("the path does not lead to the signed root")]
    Root,
}

impl Proof {
    /// Checks the proof with nothing but the log's public key.
    ///
    /// # Errors
    /// [`ProofFault`] says why it proves nothing.
    pub fn check(&self, key: &VerifierKey) -> Result<Checkpoint, ProofFault> {
        let head = Checkpoint::open(&self.checkpoint, key)?;
        let starts_right = self.line.starts_with(&format!("{{\"seq\":{},", self.seq));
        if head.size != self.tree_size || self.leaf_index.checked_add(1) != Some(self.seq) || !starts_right {
            return Err(ProofFault::Numbers);
        }
        let root = root_from_inclusion(leaf_hash(self.line.as_bytes()), self.leaf_index, self.tree_size, &self.path);
        if root == Some(head.root) { Ok(head) } else { Err(ProofFault::Root) }
    }
}

/// That the tree of `old` is a prefix of the tree of `new` (RFC 6962 section 2.1.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsistencyProof {
    /// The older signed head.
    pub old: String,
    /// The newer signed head.
    pub new: String,
    /// The hashes, in base64.
    pub path: Vec<Hash>,
}

impl ConsistencyProof {
    /// Checks the proof with nothing but the log's public key.
    ///
    /// # Errors
    /// [`ProofFault`] says why it proves nothing.
    pub fn check(&self, key: &VerifierKey) -> Result<(), ProofFault> {
        let (old, new) = (Checkpoint::open(&self.old, key)?, Checkpoint::open(&self.new, key)?);
        let holds = is_consistent(old.size, old.root, new.size, new.root, &self.path);
        if holds { Ok(()) } else { Err(ProofFault::Root) }
    }
}

/// Proves line `seq` of the ledger in `dir` against its newest checkpoint. Reads the line's own segment
/// and the one where the checkpoint ends; of the others only their signed records.
///
/// # Errors
/// [`LedgerError::NoLine`] when there is no such line, it is not signed yet, or retention removed it;
/// [`LedgerError::Damaged`] when the ledger does not lead to its own checkpoint.
pub fn prove(dir: &Path, seq: u64) -> Result<Proof, LedgerError> {
    let key = load_public_key(dir)?;
    let head = newest(dir, &key)?;
    if seq == 0 || seq > head.size {
        let why = "it is not there, or no checkpoint covers it yet";
        return Err(LedgerError::NoLine { seq, why });
    }
    let index = seq - 1;
    let (forest, line) = Forest::grow(dir, &key, head.size, &[index, head.size - 1], Some(index))?;
    let Some(line) = line else {
        return Err(LedgerError::NoLine { seq, why: "retention removed it" });
    };
    let path = inclusion_path(index, head.size, &|begin, end| forest.subtree(begin, end));
    let line =
        String::from_utf8(line).map_err(|_| LedgerError::damaged(dir, None, Some(seq), "the line is not text"))?;
    let proof = Proof { line, seq, leaf_index: index, tree_size: head.size, path, checkpoint: head.note };
    proof
        .check(&key)
        .map_err(|fault| LedgerError::damaged(dir, None, Some(seq), format!("{fault}; verify names the place")))?;
    Ok(proof)
}

/// Proves that `old`, a checkpoint that somebody kept, is the past of the newest checkpoint in `dir`.
///
/// # Errors
/// [`LedgerError::Damaged`] when it is not; [`LedgerError::Note`] when `old` is not signed by the log.
pub fn prove_consistency(dir: &Path, old: &str) -> Result<ConsistencyProof, LedgerError> {
    let key = load_public_key(dir)?;
    let given =
        Checkpoint::open(old, &key).map_err(|source| LedgerError::Note { path: "given checkpoint".into(), source })?;
    let head = newest(dir, &key)?;
    let fault = |detail: &str| LedgerError::damaged(&checkpoint::latest_path(dir), None, Some(given.size), detail);
    if given.size > head.size {
        return Err(fault("the ledger's newest checkpoint is older than the given one"));
    }
    let cuts: Vec<u64> = [given.size, head.size].iter().filter_map(|size| size.checked_sub(1)).collect();
    let (forest, _) = Forest::grow(dir, &key, head.size, &cuts, None)?;
    let path = consistency_path(given.size, head.size, &|begin, end| forest.subtree(begin, end));
    let proof = ConsistencyProof { old: given.note.clone(), new: head.note, path };
    proof.check(&key).map_err(|_| fault("the given checkpoint is not the past of this ledger"))?;
    Ok(proof)
}

fn newest(dir: &Path, key: &VerifierKey) -> Result<Checkpoint, LedgerError> {
    checkpoint::latest(dir, key)?
        .ok_or_else(|| LedgerError::damaged(&checkpoint::latest_path(dir), None, None, "there is no checkpoint"))
}

/// Subtrees, side by side, that cover the first lines of a log.
struct Forest {
    nodes: Vec<Node>,
}

impl Forest {
    /// Covers the leaves below `size`. Segments that hold one of `fine` are there leaf by leaf, the rest
    /// as their largest subtrees. Also gives the line at `wanted`, if it is still there.
    fn grow(
        dir: &Path,
        key: &VerifierKey,
        size: u64,
        fine: &[u64],
        wanted: Option<u64>,
    ) -> Result<(Self, Option<Vec<u8>>), LedgerError> {
        let mut nodes = Vec::new();
        let mut line = None;
        let mut covered = 0;
        for (first, files) in segment::list(dir)? {
            if covered >= size {
                break;
            }
            if first != covered + 1 {
                break;
            }
            let record = load_record(dir, key, first, files)?;
            if let Some(record) = record.as_ref().filter(|_| files.removed) {
                let inside = |leaf: &&u64| (record.first..record.last).contains(&(**leaf + 1));
                if let Some(leaf) = fine.iter().find(inside) {
                    return Err(LedgerError::NoLine { seq: leaf + 1, why: "retention removed it" });
                }
            }
            match record {
                Some(record)
                    if files.removed || !fine.iter().any(|leaf| (record.first..=record.last).contains(&(leaf + 1))) =>
                {
                    let range = record.range().expect("checked when it was loaded");
                    nodes.extend_from_slice(range.nodes());
                    covered = record.last;
                }
                _ => covered = read_leaves(dir, first, size, wanted, &mut nodes, &mut line)?,
            }
        }
        if covered < size {
            let path = segment::path(dir, covered + 1, segment::PLAIN);
            return Err(LedgerError::damaged(&path, None, Some(covered + 1), "lines that were signed are missing"));
        }
        Ok((Self { nodes }, line))
    }

    /// `MTH(D[begin:end])`. Largest subtrees of a whole segment never straddle a subtree that a path
    /// needs: such a subtree lies beside a leaf outside of the segment.
    fn subtree(&self, begin: u64, end: u64) -> Hash {
        let from = self.nodes.partition_point(|node| node.start < begin);
        let mut range = CompactRange::empty_at(begin);
        for node in self.nodes[from..].iter().take_while(|node| node.start < end) {
            range.push_node(*node);
        }
        range.root()
    }
}

fn load_record(dir: &Path, key: &VerifierKey, first: u64, files: Files) -> Result<Option<SegmentRecord>, LedgerError> {
    if files.removed {
        SegmentRecord::load(&segment::path(dir, first, REMOVED), key, first).map(Some)
    } else if files.seal {
        SegmentRecord::load(&segment::path(dir, first, SEAL), key, first).map(Some)
    } else {
        Ok(None)
    }
}

/// Adds the leaves of one segment, as far as they lie below `size`; the number of lines covered.
fn read_leaves(
    dir: &Path,
    first: u64,
    size: u64,
    wanted: Option<u64>,
    nodes: &mut Vec<Node>,
    line: &mut Option<Vec<u8>>,
) -> Result<u64, LedgerError> {
    let mut reader = LineReader::open(dir, first)?;
    let mut index = first - 1;
    while index < size {
        let Step::Line(bytes) = reader.step()? else { break };
        nodes.push(Node::leaf(index, leaf_hash(bytes)));
        if wanted == Some(index) {
            *line = Some(bytes.to_vec());
        }
        index += 1;
    }
    Ok(index)
}
