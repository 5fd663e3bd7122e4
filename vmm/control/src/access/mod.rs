//! Who calls, what they may do, and which files they may name.
//!
//! Nothing here trusts a word that a caller says of itself: who it is comes from the kernel, and a file's name is an
//! address inside of a configured folder or nothing.

mod accounts;
mod caller;
mod folders;
mod member;
mod new_file;
mod passed;
mod peer;
mod private_folder;
mod role;

pub use accounts::Accounts;
pub use caller::Caller;
pub use folders::{FileError, Folders, OpenedFile};
pub use member::{Account, Member, MemberKind};
pub use new_file::NewFile;
pub(crate) use passed::Files;
pub use private_folder::{PrivateFolderError, make_private_folder};
pub use role::{Role, Roles};
