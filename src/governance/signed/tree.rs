//! A folder or a file as one thing with one digest.
//!
//! The walk goes from descriptor to descriptor: each name is opened without following links, looked at, and only then
//! opened for reading, so no step resolves a path that somebody could change meanwhile.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};

use super::look::{Look, Seen, by_descriptor, look, open};
use super::path::{PathFault, check_path};

/// What opens the text that is hashed: another form gets another one.
const DOMAIN: &str = "arw-tree/v1\n";
/// Deepest folder below the top.
const MAX_DEPTH: usize = 16;
/// Most entries of one folder that are even listed: those of folders without files count too.
const MAX_NAMES: usize = 16_384;
/// Largest signature file, in bytes: a note with a few signatures.
const MAX_SIGNATURE: u64 = 16 << 10;
/// Bytes read in one go.
const PIECE: usize = 64 << 10;

/// What is expected of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Names of the manifest, of which exactly one is at the top.
    pub manifests: &'static [&'static str],
    /// Name of the signature file at the top, which is not part of what is signed.
    pub signature: &'static str,
    /// Largest manifest, in bytes.
    pub max_manifest: u64,
    /// Most files.
    pub max_files: usize,
    /// Most bytes of all files together.
    pub max_bytes: u64,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreeEntry {
    /// From the top, with `/` between its parts.
    pub path: String,
    /// Whether its owner may execute it: the one bit of its mode that is kept.
    pub executable: bool,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
}

impl TreeEntry {
    /// The SHA-256 of its content, in lower-case hexadecimal.
    pub fn sha256_hex(&self) -> String {
        hex(&self.sha256)
    }
}

/// All files, in the order of their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    entries: Vec<TreeEntry>,
}

/// What was read in one walk.
#[derive(Debug)]
pub struct Material {
    /// All files but the signature.
    pub tree: Tree,
    /// Name of the manifest in the tree.
    pub manifest_name: String,
    /// The manifest, as it was hashed.
    pub manifest: Vec<u8>,
    /// The signature file's content; `None` when there is none.
    pub signature: Option<Vec<u8>>,
}

/// Why a folder or a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum TreeFault {
    /// The file system refused.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The name of a file.
    #[error(transparent)]
    Path(#[from] PathFault),
    /// A link, a device, a pipe or a socket.
    #[error("`{path}` is {what}: only files and folders are taken")]
    Kind {
        /// From the top.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// A file with a second name, which may lie where its content can be changed or should not be read.
    #[error("`{path}` has another name somewhere (a hard link)")]
    SecondName {
        /// From the top.
        path: String,
    },
    /// Set-user-id, set-group-id or sticky.
    #[error("`{path}` has a set-user-id, set-group-id or sticky bit")]
    Mode {
        /// From the top.
        path: String,
    },
    /// A bound of the shape.
    #[error("{0}")]
    Bound(String),
    /// It was changed while it was read.
    #[error("`{path}` was changed while it was read")]
    Changed {
        /// From the top.
        path: String,
    },
    /// Not exactly one manifest.
    #[error("there is no manifest: {} is expected at the top", .0.join(" or "))]
    NoManifest(&'static [&'static str]),
    /// More than one manifest.
    #[error("`{0}` and `{1}` are both manifests: which one counts would be a guess")]
    TwoManifests(String, String),
}

/// Reads `source` as it is.
///
/// # Errors
/// [`TreeFault`]: the first thing that is not taken.
pub fn read(source: &Path, shape: &Shape) -> Result<Material, TreeFault> {
    walk(source, shape, None)
}

/// Copies `source` into `into`, a folder that is made for it, and tells what was copied.
///
/// # Errors
/// As [`read`]; what was copied by then stays, for the caller to remove.
pub(super) fn copy(source: &Path, shape: &Shape, into: &Path) -> Result<Material, TreeFault> {
    make_folder(into)?;
    let material = walk(source, shape, Some(into))?;
    sync_folder(into)?;
    Ok(material)
}

impl Tree {
    /// A tree of these entries, in order.
    pub(super) fn of(mut entries: Vec<TreeEntry>) -> Self {
        entries.sort();
        Self { entries }
    }

    /// The files, in the order of their paths.
    pub fn entries(&self) -> &[TreeEntry] {
        &self.entries
    }

    /// The file at `path`.
    pub fn entry(&self, path: &str) -> Option<&TreeEntry> {
        self.entries.iter().find(|entry| entry.path == path)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    /// The text whose hash is the digest: a line for each file, in the order of their paths.
    ///
    /// `SHA256 MODE BYTES PATH`, where MODE is `x` or `-`. No path has a line end, so no two trees have one text.
    pub fn listing(&self) -> String {
        let mut text = DOMAIN.to_owned();
        for TreeEntry { path, executable, bytes, sha256 } in &self.entries {
            let mode = if *executable { 'x' } else { '-' };
            text.push_str(&format!("{} {mode} {bytes} {path}\n", hex(sha256)));
        }
        text
    }

    /// SHA-256 of the listing, in hexadecimal.
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(self.listing()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Walk<'w> {
    shape: &'w Shape,
    into: Option<&'w Path>,
    entries: Vec<TreeEntry>,
    names: usize,
    left: u64,
    manifest: Option<(String, Vec<u8>)>,
    signature: Option<Vec<u8>>,
}

fn walk(source: &Path, shape: &Shape, into: Option<&Path>) -> Result<Material, TreeFault> {
    let mut walk =
        Walk { shape, into, entries: Vec::new(), names: 0, left: shape.max_bytes, manifest: None, signature: None };
    let top = look(None, source.as_os_str().as_encoded_bytes(), source)?;
    let name = source.display().to_string();
    match top.kind {
        Seen::Folder => walk.folder(&open(&top.file, &name, OFlag::O_DIRECTORY)?, "", 0)?,
        Seen::File => walk.single(source, &top)?,
    }
    let (manifest_name, manifest) = walk.manifest.ok_or(TreeFault::NoManifest(shape.manifests))?;
    Ok(Material { tree: Tree::of(walk.entries), manifest_name, manifest, signature: walk.signature })
}

impl Walk<'_> {
    fn folder(&mut self, folder: &File, path: &str, depth: usize) -> Result<(), TreeFault> {
        if depth > MAX_DEPTH {
            return Err(TreeFault::Bound(format!("`{path}` lies deeper than {MAX_DEPTH} folders")));
        }
        for name in self.names(folder, path)? {
            let inner = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            check_path(&inner)?;
            let seen = look(Some(folder), name.as_bytes(), Path::new(&inner))?;
            match seen.kind {
                Seen::Folder => {
                    let folder = open(&seen.file, &inner, OFlag::O_DIRECTORY)?;
                    if let Some(into) = self.into {
                        make_folder(&into.join(&inner))?;
                    }
                    self.folder(&folder, &inner, depth + 1)?;
                    if let Some(into) = self.into {
                        sync_folder(&into.join(&inner))?;
                    }
                }
                Seen::File if inner == self.shape.signature => self.signature = Some(signature(&seen.file, &inner)?),
                Seen::File => self.file(&seen, inner)?,
            }
        }
        Ok(())
    }

    /// The names of a folder, in order. They are read from the descriptor, not from a path.
    fn names(&mut self, folder: &File, path: &str) -> Result<Vec<String>, TreeFault> {
        let fault = |source| TreeFault::Io { doing: "list", path: PathBuf::from(path), source };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(by_descriptor(folder)).map_err(fault)? {
            let name = entry.map_err(fault)?.file_name();
            self.names += 1;
            if self.names > MAX_NAMES {
                return Err(TreeFault::Bound(format!("more than {MAX_NAMES} names")));
            }
            match name.into_string() {
                Ok(name) => names.push(name),
                Err(name) => return Err(PathFault::Character(name.to_string_lossy().into_owned()).into()),
            }
        }
        names.sort();
        Ok(names)
    }

    /// A file by itself is a tree of one file, under the manifest's usual name.
    fn single(&mut self, source: &Path, seen: &Look) -> Result<(), TreeFault> {
        let extension = source.extension();
        let usual = self.shape.manifests.iter().find(|name| Path::new(name).extension() == extension);
        let name = usual.ok_or(TreeFault::NoManifest(self.shape.manifests))?;
        self.file(seen, (*name).to_owned())?;
        let mut beside = source.as_os_str().to_owned();
        beside.push(".sig");
        let beside = PathBuf::from(beside);
        match look(None, beside.as_os_str().as_encoded_bytes(), &beside) {
            Ok(seen) => self.signature = Some(signature(&seen.file, &beside.display().to_string())?),
            Err(TreeFault::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    fn file(&mut self, seen: &Look, path: String) -> Result<(), TreeFault> {
        if self.entries.len() == self.shape.max_files {
            return Err(TreeFault::Bound(format!("more than {} files", self.shape.max_files)));
        }
        let too_large = || TreeFault::Bound(format!("`{path}` leads beyond {} bytes in all", self.shape.max_bytes));
        if seen.bytes > self.left {
            return Err(too_large());
        }
        let is_manifest = self.shape.manifests.contains(&path.as_str());
        if is_manifest && seen.bytes > self.shape.max_manifest {
            let most = self.shape.max_manifest;
            return Err(TreeFault::Bound(format!("`{path}` is larger than {most} bytes")));
        }
        let mut from = open(&seen.file, &path, OFlag::empty())?;
        let mut into = match self.into {
            Some(folder) => Some(Target::make(&folder.join(&path), seen.executable)?),
            None => None,
        };
        let (mut hasher, mut bytes, mut piece) = (Sha256::new(), 0_u64, vec![0; PIECE]);
        let mut content = Vec::new();
        loop {
            let read = from.read(&mut piece).map_err(|source| TreeFault::Io {
                doing: "read",
                path: PathBuf::from(&path),
                source,
            })?;
            if read == 0 {
                break;
            }
            bytes += read as u64;
            if bytes > seen.bytes {
                // It grows: a bound on its size when it was opened is none on what it becomes.
                return Err(TreeFault::Changed { path });
            }
            hasher.update(&piece[..read]);
            if let Some(target) = &mut into {
                target.write(&piece[..read])?;
            }
            if is_manifest {
                content.extend_from_slice(&piece[..read]);
            }
        }
        if bytes != seen.bytes {
            return Err(TreeFault::Changed { path });
        }
        if let Some(target) = into {
            target.finish()?;
        }
        self.left -= bytes;
        if is_manifest && let Some((first, _)) = self.manifest.replace((path.clone(), content)) {
            return Err(TreeFault::TwoManifests(first, path));
        }
        let sha256 = hasher.finalize().into();
        self.entries.push(TreeEntry { path, executable: seen.executable, bytes, sha256 });
        Ok(())
    }
}

fn signature(looked_at: &File, shown: &str) -> Result<Vec<u8>, TreeFault> {
    let file = open(looked_at, shown, OFlag::empty())?;
    let mut bytes = Vec::new();
    file.take(MAX_SIGNATURE + 1).read_to_end(&mut bytes).map_err(|source| TreeFault::Io {
        doing: "read",
        path: PathBuf::from(shown),
        source,
    })?;
    if bytes.len() as u64 > MAX_SIGNATURE {
        return Err(TreeFault::Bound(format!("`{shown}` is larger than {MAX_SIGNATURE} bytes")));
    }
    Ok(bytes)
}

/// A file of the copy.
struct Target {
    file: File,
    path: PathBuf,
    mode: u32,
}

impl Target {
    fn make(path: &Path, executable: bool) -> Result<Self, TreeFault> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|source| TreeFault::Io { doing: "make", path: path.to_owned(), source })?;
        // Read by whoever the runtime runs as; written by nobody.
        Ok(Self { file, path: path.to_owned(), mode: if executable { 0o555 } else { 0o444 } })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TreeFault> {
        self.file.write_all(bytes).map_err(|source| self.fault(source))
    }

    fn finish(self) -> Result<(), TreeFault> {
        let done = self.file.set_permissions(Permissions::from_mode(self.mode)).and_then(|()| self.file.sync_all());
        done.map_err(|source| self.fault(source))
    }

    fn fault(&self, source: io::Error) -> TreeFault {
        TreeFault::Io { doing: "write", path: self.path.clone(), source }
    }
}

fn make_folder(path: &Path) -> Result<(), TreeFault> {
    let made = DirBuilder::new().mode(0o755).create(path);
    made.and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o755))).map_err(|source| TreeFault::Io {
        doing: "make",
        path: path.to_owned(),
        source,
    })
}

fn sync_folder(path: &Path) -> Result<(), TreeFault> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|source| TreeFault::Io { doing: "sync", path: path.to_owned(), source })
}
