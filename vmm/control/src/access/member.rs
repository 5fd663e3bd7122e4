//! Whoever has a role: a user or a group, by name or number.

use std::fmt;
use std::str::FromStr;

/// Longest name of an account: what useradd(8) allows is 32.
const NAME_MOST: usize = 256;

/// A user, or everybody in a group: `user:alice`, `user:1000`, `group:kvm` or `group:27`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Which of the two.
    pub kind: MemberKind,
    /// Which one.
    pub account: Account,
}

/// Users and groups have names and numbers of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberKind {
    /// One user.
    User,
    /// Everybody in a group.
    Group,
}

/// A user or group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    /// As the kernel knows it.
    Number(u32),
    /// As people know it.
    Name(String),
}

impl MemberKind {
    /// The word before the colon.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
        }
    }
}

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write user:NAME, user:NUMBER, group:NAME or group:NUMBER";
        let (kind, account) = text.split_once(':').ok_or(form)?;
        let kind = match kind {
            "user" => MemberKind::User,
            "group" => MemberKind::Group,
            _ => return Err(form.to_owned()),
        };
        let account = if !account.is_empty() && account.bytes().all(|byte| byte.is_ascii_digit()) {
            match account.parse() {
                // The kernel's word for "no change" is nobody's number.
                Ok(number) if number != u32::MAX => Account::Number(number),
                _ => return Err(format!("{account} is no number of a {}", kind.word())),
            }
        } else {
            let is_name = |c: char| !c.is_whitespace() && !c.is_control() && c != ':' && c != ',';
            if account.is_empty() || account.len() > NAME_MOST || !account.chars().all(is_name) {
                return Err(form.to_owned());
            }
            Account::Name(account.to_owned())
        };
        Ok(Self { kind, account })
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.account {
            Account::Number(number) => write!(f, "{}:{number}", self.kind.word()),
            Account::Name(name) => write!(f, "{}:{name}", self.kind.word()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_and_shown_alike() {
        for text in ["user:alice", "user:0", "user:1000", "group:kvm", "group:27", "user:a.b-c_d$"]
        {
            assert_eq!(text.parse::<Member>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_neither_user_nor_group_is_refused_with_the_form() {
        for text in
            ["", "alice", "1000", "user:", "users:alice", "group:a b", "user:a:b", "user:a,b"]
        {
            let error = text.parse::<Member>().unwrap_err();
            assert!(error.contains("group:NUMBER"), "{text:?}: {error}");
        }
        for text in ["user:4294967295", "group:4294967296", "user:99999999999999999999"] {
            let error = text.parse::<Member>().unwrap_err();
            assert!(error.contains("is no number of a"), "{text:?}: {error}");
        }
    }
}
