//! The management plane: what machines there are, who may do what with them, and the socket on which that is asked.
//!
//! This crate never touches KVM or guest memory, and it is in no guest's way: the daemon can be killed at any moment,
//! and machines run on. It opens every file that a caller names, inside of configured folders; a machine process is
//! given descriptors.
