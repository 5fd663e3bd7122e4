//! [`Key`]: the identity of a built kernel, and [`KernelFiles`]: what one consists of.

use std::path::PathBuf;

/// The identity of a built kernel: whatever could change its bytes is hashed into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The key of a kernel from `version` of the source and the other `inputs`, in this order.
    #[must_use]
    pub fn of(version: &str, inputs: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for input in [version].iter().chain(inputs) {
            // The length keeps ("ab", "c") and ("a", "bc") apart.
            hasher.update(&(input.len() as u64).to_le_bytes());
            hasher.update(input.as_bytes());
        }
        let digest = hasher.finalize().to_hex();
        Self(format!("{version}-{}", &digest[..16]))
    }

    /// The name of the kernel's folder in the cache.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A finished kernel: a folder of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFiles {
    /// Holds the four files below and nothing else.
    pub folder: PathBuf,
}

impl KernelFiles {
    /// The compressed kernel with its real-mode entry.
    pub const BZIMAGE: &str = "bzImage";
    /// The ELF kernel without symbols; a guest's has a PVH note.
    pub const VMLINUX: &str = "vmlinux";
    /// The symbols that were taken from it.
    pub const SYSTEM_MAP: &str = "System.map";
    /// The complete configuration.
    pub const CONFIG: &str = "config";

    pub(crate) const ALL: [&str; 4] =
        [Self::BZIMAGE, Self::VMLINUX, Self::SYSTEM_MAP, Self::CONFIG];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_and_its_place_change_the_key() {
        let key = Key::of("1", &["ab", "c"]);
        assert_eq!(key, Key::of("1", &["ab", "c"]));
        for other in [Key::of("2", &["ab", "c"]), Key::of("1", &["a", "bc"]), Key::of("1", &["ab"])]
        {
            assert_ne!(key, other);
        }
        assert!(key.as_str().starts_with("1-"));
    }
}
