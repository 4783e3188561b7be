//! The identity of a file of the hub: the digest of its content. The digest is also the file's name in the cache.

use std::fmt;
use std::io::Read;
use std::str::FromStr;

use lockstep_engine::source::to_hex;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Bytes that are hashed at a time.
const BLOCK: usize = 1 << 20;

/// Digest of a file's content: SHA-256 for a file in the hub's large-file storage, or git's object id (SHA-1 of
/// `blob SIZE\0` and the content) for any other file. In hex, lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId(String);

impl ContentId {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the SHA-256 of the bytes that `content` reads.
    ///
    /// # Errors
    /// The reader fails.
    pub fn sha256(content: &mut dyn Read) -> std::io::Result<Self> {
        let mut hash = Sha256::new();
        each_block(content, &mut |block| hash.update(block))?;
        Ok(Self(to_hex(&hash.finalize())))
    }

    /// Returns the digest of `content`, of `size` bytes, with the same hash function as this id. Calls `on_block` with the
    /// number of bytes of each block.
    ///
    /// # Errors
    /// The reader fails.
    pub fn hash_same_kind(
        &self,
        content: &mut dyn Read,
        size: u64,
        on_block: &mut dyn FnMut(u64),
    ) -> std::io::Result<Self> {
        if self.0.len() == 64 {
            let mut hash = Sha256::new();
            each_block(content, &mut |block| {
                hash.update(block);
                on_block(block.len() as u64);
            })?;
            return Ok(Self(to_hex(&hash.finalize())));
        }
        let mut hash = Sha1::new();
        hash.update(format!("blob {size}\0"));
        each_block(content, &mut |block| {
            hash.update(block);
            on_block(block.len() as u64);
        })?;
        Ok(Self(to_hex(&hash.finalize())))
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ContentId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        match digits && [40, 64].contains(&text.len()) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("`{}` is no digest", text.chars().take(80).collect::<String>())),
        }
    }
}

fn each_block(content: &mut dyn Read, on_block: &mut dyn FnMut(&[u8])) -> std::io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        match content.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(read) => on_block(&block[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_match_git_and_sha256sum() {
        // `printf 'hello\n' | git hash-object --stdin`, and sha256sum.
        let git: ContentId = "ce013625030ba8dba906f756967f9e9ca394464a".parse().unwrap();
        let sha: ContentId = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".parse().unwrap();
        let mut hashed = 0;
        for id in [&git, &sha] {
            assert_eq!(id.hash_same_kind(&mut &b"hello\n"[..], 6, &mut |bytes| hashed += bytes).unwrap(), *id);
        }
        assert_eq!(hashed, 12);
        assert_eq!(ContentId::sha256(&mut &b"hello\n"[..]).unwrap(), sha);
        for bad in ["", "..", "CE013625030BA8DBA906F756967F9E9CA394464A", "ce01", "../../etc/passwd"] {
            assert!(bad.parse::<ContentId>().is_err(), "{bad}");
        }
    }
}
