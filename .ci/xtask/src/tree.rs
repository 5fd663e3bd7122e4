//! The source tree: where it is, its packages, its files.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::process::{self, Red};

/// Folders that hold nothing written by hand.
const NOT_OURS: [&str; 2] = ["target", "corpus"];
/// Hidden folders that do.
const HIDDEN_BUT_OURS: [&str; 2] = [".ci", ".cargo"];

/// The tree that this program was built from.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The folder of the workspace's Cargo.toml.
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
    /// The workspace's packages.
    pub(crate) packages: Vec<Package>,
}

/// A member of the workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Package {
    /// The package's name.
    pub(crate) name: String,
    /// Its folder, relative to the root.
    pub(crate) folder: PathBuf,
    /// Names of the packages of this workspace that it links.
    pub(crate) links: Vec<String>,
    /// Names of the packages of this workspace that only its tests link.
    pub(crate) tests_link: Vec<String>,
    /// Names of its executables.
    pub(crate) executables: Vec<String>,
}

/// A text file of the tree.
#[derive(Debug)]
pub(crate) struct TextFile {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
}

impl Tree {
    /// Asks cargo where the tree is and what is in it.
    ///
    /// # Errors
    /// Cargo does not answer, or not as documented.
    pub(crate) fn find() -> Result<Self, Red> {
        let built_in = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command =
            process::cargo(built_in, &["metadata", "--format-version=1", "--no-deps"]);
        let output =
            command.output().map_err(|error| Red::system("run `cargo metadata`", &error))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Red::new(format!("`cargo metadata` failed:\n{words}")));
        }
        serde_json::from_slice(&output.stdout)
            .ok()
            .and_then(|metadata| Self::parse(&metadata))
            .ok_or_else(|| Red::new("`cargo metadata` printed something unexpected"))
    }

    fn parse(metadata: &Value) -> Option<Self> {
        let root = PathBuf::from(metadata["workspace_root"].as_str()?);
        let packages = metadata["packages"].as_array()?;
        let packages = packages.iter().map(|package| Package::parse(package, &root));
        Some(Self {
            target: PathBuf::from(metadata["target_directory"].as_str()?),
            packages: packages.collect::<Option<_>>()?,
            root,
        })
    }

    /// Every text file of the tree that a person wrote, in the order of their paths.
    ///
    /// # Errors
    /// A folder or file cannot be read.
    pub(crate) fn text_files(&self) -> Result<Vec<TextFile>, Red> {
        let mut files = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            let unreadable = |error| Red::system(&format!("read {}", folder.display()), &error);
            for entry in fs::read_dir(&folder).map_err(unreadable)? {
                let entry = entry.map_err(unreadable)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let kind = entry.file_type().map_err(unreadable)?;
                if kind.is_dir() && is_ours(&name) {
                    folders.push(entry.path());
                } else if kind.is_file()
                    && name != "Cargo.lock"
                    // Whatever is not text was not written by hand.
                    && let Ok(text) = String::from_utf8(fs::read(entry.path()).map_err(unreadable)?)
                {
                    files.push(TextFile { path: self.relative(&entry.path()), text });
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// The text of one file, by its path below the root.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read(&self, path: &str) -> Result<String, Red> {
        fs::read_to_string(self.root.join(path))
            .map_err(|error| Red::system(&format!("read {path}"), &error))
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().into_owned()
    }
}

impl Package {
    fn parse(package: &Value, root: &Path) -> Option<Self> {
        let manifest = Path::new(package["manifest_path"].as_str()?);
        let mut parsed = Self {
            name: package["name"].as_str()?.to_owned(),
            folder: manifest.parent()?.strip_prefix(root).ok()?.to_owned(),
            ..Self::default()
        };
        for dependency in package["dependencies"].as_array()? {
            // Only packages of this workspace are named by their folder.
            if dependency["path"].is_string() {
                let name = dependency["name"].as_str()?.to_owned();
                match dependency["kind"].as_str() {
                    Some("dev") => parsed.tests_link.push(name),
                    _ => parsed.links.push(name),
                }
            }
        }
        for target in package["targets"].as_array()? {
            if target["kind"][0].as_str()? == "bin" {
                parsed.executables.push(target["name"].as_str()?.to_owned());
            }
        }
        Some(parsed)
    }
}

fn is_ours(folder: &str) -> bool {
    let hidden = folder.starts_with('.') && !HIDDEN_BUT_OURS.contains(&folder);
    !hidden && !NOT_OURS.contains(&folder)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cargos_answer_is_understood() {
        let metadata = json!({
            "workspace_root": "/t", "target_directory": "/t/target",
            "packages": [{
                "name": "machine", "manifest_path": "/t/vmm/machine/Cargo.toml",
                "dependencies": [
                    {"name": "dwcp", "path": "/t/dwcp", "kind": null},
                    {"name": "firmware", "path": "/t/firmware", "kind": "dev"},
                    {"name": "blake3", "kind": null},
                ],
                "targets": [
                    {"name": "machine", "kind": ["lib"]}, {"name": "tool", "kind": ["bin"]},
                ],
            }],
        });
        let tree = Tree::parse(&metadata).unwrap();
        assert_eq!(
            tree.packages,
            [Package {
                name: "machine".to_owned(),
                folder: "vmm/machine".into(),
                links: vec!["dwcp".to_owned()],
                tests_link: vec!["firmware".to_owned()],
                executables: vec!["tool".to_owned()],
            }]
        );
        assert_eq!(tree.target, Path::new("/t/target"));
        assert!(Tree::parse(&json!({"packages": []})).is_none());
    }

    #[test]
    fn only_what_a_person_wrote_is_read() {
        let root = tempfile::tempdir().unwrap();
        for path in ["a.rs", ".ci/run", "target/b.rs", ".git/c", "x/corpus/d", "Cargo.lock"] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "text").unwrap();
        }
        fs::write(root.path().join("picture"), [0xff, 0xfe]).unwrap();
        let tree =
            Tree { root: root.path().to_owned(), target: PathBuf::new(), packages: Vec::new() };
        let paths: Vec<_> = tree.text_files().unwrap().into_iter().map(|file| file.path).collect();
        assert_eq!(paths, [".ci/run", "a.rs"]);
    }
}
